"""What a runtime says of itself is what it does."""

import json
import re
from pathlib import Path

NODE = Path(__file__).parents[2] / "sandbox" / "runtimes" / "node"


def test_the_modules_that_node_offers_are_those_that_its_loader_allows() -> None:
    offered = json.loads((NODE / "runtime.json").read_text())["modules"]
    listed = re.search(r"const BUILTINS = new Set\(\[(.*?)\]\)", (NODE / "modules.js").read_text(), re.DOTALL)
    assert listed is not None
    allowed = re.findall(r"'([^']+)'", listed[1])
    assert len(allowed) > 20
    assert offered == allowed
