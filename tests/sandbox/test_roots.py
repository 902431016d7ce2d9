"""Roots are built once, by a process of its own, and what can't be built is told and leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import rootfs, roots
from sandbox.loop import Loop
from sandbox.roots import Roots
from sandbox.runtimes import load_all, named

PYTHON = next(name for name in load_all() if name.startswith("python"))


class Built:
    """A loop with roots, and what they told."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        offered = {name: named(name) for name in ("nodejs20", PYTHON)}
        self.roots = Roots(self.loop, offered, folder, Path("/seen"))
        self.told: list[tuple[str, str]] = []
        self.roots.on_built = lambda name, problem: self.told.append((name, problem))

    def build(self, name: str) -> str:
        """Build it and say what was the problem, "" if none."""
        self.told.clear()
        self.roots.build(name)
        self._until(lambda: bool(self.told))
        return self.told[0][1]

    def _until(self, condition: Callable[[], bool]) -> None:
        def look() -> None:
            if condition():
                self.loop.stop()
            else:
                self.loop.later(0.01, look)

        look()
        if not condition():
            self.loop.run()


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path)


def test_the_first_runtime_is_ready_at_once_and_another_once_it_was_asked_for(built: Built) -> None:
    assert built.roots.ready("nodejs20") is not None
    assert built.roots.ready(PYTHON) is None
    assert built.build(PYTHON) == ""
    ready = built.roots.ready(PYTHON)
    assert ready is not None and ready[0].name == PYTHON and ready[1].parent == Path("/seen")


def test_what_was_changed_since_the_start_is_a_problem_that_is_told_and_not_tried_without_end(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built.roots._places[PYTHON] = tmp_path / f"{PYTHON}-as-it-was"
    assert "changed since the launcher started" in built.build(PYTHON)
    started: list[str] = []
    with monkeypatch.context() as watched:
        watched.setattr(roots.subprocess, "Popen", lambda *_, **__: started.append("builder"))
        assert "changed since the launcher started" in built.build(PYTHON)
    assert started == []


def test_a_root_that_cannot_be_built_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Path]:
        raise rootfs.RootfsError("ldd says no")

    monkeypatch.setattr(rootfs, "_furnish_library", fail)
    with pytest.raises(rootfs.RootfsError):
        rootfs.build(named(PYTHON), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o4755, 0o700])
def test_the_hosts_own_files_keep_their_modes(tmp_path: Path, mode: int) -> None:
    binary, root = tmp_path / "binary", tmp_path / "root"
    binary.write_bytes(b"x")
    binary.chmod(mode)
    rootfs._link_or_copy(binary, root / "bin" / "binary")
    rootfs._open_to_all(root)
    assert binary.stat().st_mode & 0o7777 == mode
    assert os.access(root / "bin" / "binary", os.X_OK)
