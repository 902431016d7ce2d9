"""What a runtime says of itself is what it does."""

import json
import re
from pathlib import Path

import pytest

from millrace import languages
from sandbox import runtimes
from sandbox.job import Limits
from tests.sandbox.support import Runner

NODE = Path(__file__).parents[2] / "sandbox" / "runtimes" / "node"


@pytest.mark.parametrize("name", sorted(runtimes.load_all()))
def test_who_stores_scripts_and_who_runs_them_mean_the_same_by_a_runtimes_name(name: str) -> None:
    runtime, language = runtimes.named(name), languages.of(name)
    assert (runtime.language, runtime.main) == (language.name, language.main)


def test_the_modules_that_node_offers_are_those_that_its_loader_allows() -> None:
    offered = json.loads((NODE / "runtime.json").read_text())["modules"]
    listed = re.search(r"const BUILTINS = new Set\(\[(.*?)\]\)", (NODE / "modules.js").read_text(), re.DOTALL)
    assert listed is not None
    allowed = re.findall(r"'([^']+)'", listed[1])
    assert len(allowed) > 20
    assert offered == allowed


@pytest.mark.parametrize("memory_mb", [128, 300, 1000])
def test_a_script_of_any_size_may_fill_most_of_its_memory_and_no_more(run: Runner, memory_mb: int) -> None:
    limits = Limits(memory_mb=memory_mb, timeout_ms=30_000)
    most, more = int(memory_mb * 0.7), memory_mb
    fill = "const a = []; for (let n = 0; n < {}; n++) a.push(new Array(131072).fill(1.1)); return a.length"
    assert run.body(fill.format(most), limits=limits).result == most
    assert run.body(fill.format(more), limits=limits).kind == "memory"


def test_much_garbage_is_no_want_of_memory(run: Runner) -> None:
    body = """
      let kept = [];
      for (let turn = 0; turn < 150; turn++) {
        kept = [];
        for (let n = 0; n < 20000; n++) kept.push({ text: 'x'.repeat(50) + n, list: [n, { n }] });
        JSON.parse(JSON.stringify(kept));
      }
      return kept.length"""
    assert run.body(body, limits=Limits(memory_mb=128, timeout_ms=60_000)).result == 20000
