"""What holds the house together: arrows, names, packaging, and nothing happening on import."""

import configparser
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from setuptools import find_packages

from millrace import supervisor

ROOT = Path(__file__).parents[1]
PACKAGES = ("millrace", "web", "worker", "sandbox", "scheduler")
# Folders of what others wrote, for scripts and pages.
INSTALLED = {"node_modules", "packages"}


def configuration() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def our_modules() -> list[str]:
    """Every module of ours, by its dotted name; __main__ is for running and not for importing."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if not INSTALLED & set(parts) and parts[-1] != "__main__":
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def test_no_arrow_points_the_wrong_way() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
    for package in PACKAGES:
        assert package in configuration()["importlinter"]["root_packages"].split()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_ours_and_not_a_namesake(package: str) -> None:
    spec = importlib.util.find_spec(package)

    assert spec is not None and spec.origin is not None
    assert Path(spec.origin) == ROOT / package / "__init__.py"


def test_every_package_of_ours_is_installed() -> None:
    """setuptools finds those with an __init__.py; a folder of modules without one would be left out."""
    include = configuration()["options.packages.find"]["include"].split()
    installed = set(find_packages(str(ROOT), include=include))
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES for path in (ROOT / package).rglob("*.py")
        if not INSTALLED & set(path.relative_to(ROOT).parts)
    }  # fmt: skip

    assert folders - installed - {"millrace.migrations"} == set()
    assert installed - folders == set()


def test_every_folder_of_tests_is_a_package() -> None:
    """Without an __init__.py, tests/web would hide web."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}

    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_line_of_the_procfile_starts_a_module_of_ours() -> None:
    lines = supervisor.parse_procfile((ROOT / "Procfile").read_text(encoding="utf-8"))

    assert [line.name for line in lines] == list(supervisor.START_ORDER)
    for line in lines:
        python, option, module = line.command
        assert (python, option) == ("python", "-m")
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        if spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"{module}.__main__")
            assert spec is not None and spec.origin is not None
        assert Path(spec.origin).is_relative_to(ROOT)


IMPORT_WATCH = '''
import importlib, json, os, sys, threading

ours = tuple(os.path.join(os.getcwd(), package) + os.sep for package in {packages!r})
events = {{"socket.__new__", "socket.bind", "socket.connect", "sqlite3.connect", "subprocess.Popen",
           "open", "os.fork", "os.mkdir", "os.remove", "os.rename", "os.putenv", "signal.signal"}}
seen = []

def watch(event, arguments):
    if event not in events:
        return
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return  # the import system's own reading, or what a library does while it is imported
        if name.startswith(ours):
            seen.append(f"{{name}}:{{frame.f_lineno}} {{event}} {{str(arguments[:1])[:80]}}")
            return
        frame = frame.f_back

sys.addaudithook(watch)
for module in {modules!r}:
    before = threading.active_count()
    importlib.import_module(module)
    if threading.active_count() != before:
        seen.append(f"{{module}} started a thread")
print(json.dumps(seen))
'''


def imported(modules: list[str]) -> list[str]:
    program = IMPORT_WATCH.format(packages=PACKAGES, modules=modules)
    done = subprocess.run([sys.executable, "-B", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen: list[str] = json.loads(done.stdout)
    return seen


def test_nothing_happens_on_import() -> None:
    modules = our_modules()

    assert len(modules) > 50
    assert imported(modules) == []


def test_the_watch_on_imports_would_see_something(tmp_path: Path) -> None:
    (tmp_path / "guilty.py").write_text("import socket\nsocket.socket().close()\nopen('/dev/null').close()\n")
    program = IMPORT_WATCH.format(packages=(str(tmp_path),), modules=["guilty"])

    done = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert ["socket.__new__" in line or " open " in line for line in json.loads(done.stdout)] == [True, True]


def requirements() -> list[Requirement]:
    options = configuration()
    lines = options["options"]["install_requires"] + "\n" + options["options.extras_require"]["dev"]
    return [Requirement(line) for line in lines.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_what_is_installed_is_what_we_ask_for(requirement: Requirement) -> None:
    """A package can pull another one back by years without a word."""
    installed = importlib.metadata.version(requirement.name)

    assert requirement.specifier.contains(installed)


def test_the_lock_names_every_requirement_with_hashes_and_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    names = re.findall(r"^([A-Za-z0-9._\[\]-]+)==", text, re.MULTILINE)
    locked = {name.lower().split("[")[0] for name in names}

    assert {requirement.name.lower() for requirement in requirements()} <= locked
    assert text.count("--hash=sha256:") >= len(locked)
    assert "://" not in text and "--index" not in text and "--find-links" not in text


@pytest.mark.parametrize("lock", ["sandbox/runtimes/node/package-lock.json", "web/static/package-lock.json"])
def test_node_locks_have_hashes_and_no_host(lock: str) -> None:
    packages = json.loads((ROOT / lock).read_text(encoding="utf-8"))["packages"]

    foreign = {
        name: each for name, each in packages.items() if "node_modules/" in name and not each.get("link")
    }
    assert foreign
    for name, each in foreign.items():
        assert each["integrity"].startswith("sha512-"), name
        assert "://" not in each.get("resolved", ""), name
