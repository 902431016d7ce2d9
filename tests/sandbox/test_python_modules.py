"""What a Python script can import."""

from __future__ import annotations

import ast
import json

import pytest

from sandbox import runtimes
from tests.sandbox.python_support import FOLDER, PACKAGES, RUNTIMES, Python
from tests.sandbox.support import Runner


@pytest.fixture
def python(run: Runner) -> Python:
    return Python(run)


def _allowed() -> set[str]:
    for node in ast.parse((FOLDER / "modules.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STANDARD":
            assert isinstance(node.value, ast.Call)
            return set(ast.literal_eval(node.value.args[0]))
    raise AssertionError("modules.py has no STANDARD")


def test_the_modules_that_python_offers_are_those_that_its_import_allows() -> None:
    offered = json.loads((FOLDER / "runtime.json").read_text())["modules"]
    assert {name.partition(".")[0] for name in offered} == _allowed()


def test_the_libraries_that_python_offers_are_those_that_its_import_allows(python: Python) -> None:
    described = json.loads((FOLDER / "runtime.json").read_text())
    offered = {described["import_names"].get(name, name) for name in described["libraries"]}
    installed = {path.name.removesuffix(".py") for path in PACKAGES.iterdir() if "-" not in path.name} - {"bin"}
    trials = "\n".join(_trial(name) for name in sorted(installed))
    refused = {name for name, _ in python.body(f"failed = []\n{trials}\nreturn failed").result}
    assert installed - refused == offered


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_module_and_library_that_is_offered_loads(run: Runner, runtime: str) -> None:
    names = [name for name in runtimes.named(runtime).modules if name != "__future__"]
    names += ["certifi", "dateutil.parser", "httpx", "requests"]
    statements = "\n".join(["failed = []"] + [_trial(name) for name in names] + ["return failed"])
    assert Python(run, runtime).body(statements).result == []


def _trial(name: str) -> str:
    return f"try:\n    import {name}\nexcept Exception as error:\n    failed.append([{name!r}, repr(error)])"


def test_the_libraries_do_what_they_are_for(python: Python) -> None:
    ran = python.body(
        """
        import datetime, sqlite3, zoneinfo
        from dateutil import parser, relativedelta
        when = parser.parse("2024-01-31T10:00:00+01:00") + relativedelta.relativedelta(months=1)
        zone = datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")).utcoffset()
        rows = sqlite3.connect("/tmp/x.db").execute("select 1 + 1").fetchall()
        return [when.isoformat(), zone.total_seconds(), rows]
        """
    )
    assert ran.result == ["2024-02-29T10:00:00+01:00", 7200, [[2]]]


@pytest.mark.parametrize(
    "statement",
    [
        "import subprocess",
        "import multiprocessing.pool",
        "from ctypes import CDLL",
        "import _posixsubprocess",
        "import pty, tty",
        "import mmap",
        "__import__('subprocess')",
        "import importlib\nimportlib.import_module('subprocess')",
        "from importlib import import_module\nimport_module('_ctypes')",
    ],
)
def test_a_module_that_is_not_offered_is_refused_with_what_is(python: Python, statement: str) -> None:
    ran = python.body(f"try:\n    exec({statement!r}, globals())\nexcept ImportError as error:\n    return str(error)")
    assert "is not available to scripts" in ran.result
    assert "requests" in ran.result


def test_a_module_that_does_not_exist_is_named(python: Python) -> None:
    ran = python("import numpy")
    assert ran.kind == "load_error"
    assert ran.outcome.error is not None
    assert ran.outcome.error.name == "ModuleNotFoundError"
    assert ran.message.startswith("No module named 'numpy'. Scripts can import their own files, certifi, dateutil")


def test_a_library_may_import_what_a_script_may_not(python: Python) -> None:
    assert python.body("import asyncio\nreturn asyncio.subprocess.__name__").result == "asyncio.subprocess"


def test_files_of_a_project_import_each_other(python: Python) -> None:
    files = {
        "main.py": "import a, lib, lib.deep.c as c\nfrom lib import b\nfrom lib.deep.c import C\n"
        "import lib.data\ndef handler(payload, context):\n"
        "    return [a.name(), b.B, c.C, C, lib.X, lib.data.read(), __name__, __file__]",
        "a.py": "from lib.deep import c\ndef name(): return c.C + 1",
        "lib/__init__.py": "from .b import B as X",
        "lib/b.py": "from . import deep\nfrom .deep.c import C\nB = C * 2",
        "lib/deep/c.py": "C = 41",
        "lib/data.py": "import pkgutil\ndef read(): return pkgutil.get_data('lib', 'data.txt').decode()",
        "lib/data.txt": "text",
    }
    assert python(files).result == [42, 82, 41, 41, 82, "text", "main", "/script/main.py"]


def test_files_beside_a_main_file_in_a_folder_are_found(python: Python) -> None:
    files = {
        "src/main.py": "import helper\nfrom shared import deep\ndef handler(p, c): return [helper.H, deep.D]",
        "src/helper.py": "H = 1",
        "shared/deep.py": "D = 2",
    }
    assert python(files, main="src/main.py").result == [1, 2]


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.py"))])
def test_a_file_may_have_any_name_of_the_bootstraps(python: Python, name: str) -> None:
    files = {"main.py": f"import {name}\ndef handler(p, c): return {name}.MINE", f"{name}.py": "MINE = 1"}
    assert python(files).result == 1


def test_a_file_with_the_name_of_a_standard_module_is_said_to_be_in_the_way(python: Python) -> None:
    files = {"main.py": "import calendar\ndef handler(p, c): return 1", "calendar.py": ""}
    ran = python(files)
    assert ran.kind == "load_error"
    assert "own calendar has the name of a module of the standard library" in ran.message


def test_a_main_file_may_have_the_name_of_a_standard_module(python: Python) -> None:
    source = "import calendar, http.cookiejar\ndef handler(p, c): return calendar.isleap(2024)"
    assert python({"calendar_.py": source}, main="calendar_.py").result is True
    own = "import http.cookiejar, sys\ndef handler(p, c): return sys.modules['calendar'].isleap(2024)"
    assert python({"calendar.py": own}, main="calendar.py").result is True


def test_a_file_may_begin_with_a_byte_order_mark(python: Python) -> None:
    assert python({"main.py": "\ufeffdef handler(p, c): return 'bom'"}).result == "bom"


def test_what_depends_on_its_module_works(python: Python) -> None:
    source = """
    import dataclasses, inspect, pickle, typing
    @dataclasses.dataclass
    class Point:
        x: "int"
        y: int = 2
    def handler(payload, context):
        point = pickle.loads(pickle.dumps(Point(1)))
        return [dataclasses.asdict(point), inspect.getsource(Point).splitlines()[1], list(typing.get_type_hints(Point))]
    """
    assert python(source).result == [{"x": 1, "y": 2}, "class Point:", ["x", "y"]]


def test_a_module_that_failed_to_load_can_be_tried_again(python: Python) -> None:
    files = {
        "main.py": "def handler(p, c):\n    found = []\n    for _ in range(2):\n        try:\n            import bad\n"
        "        except ValueError as error:\n            found.append(str(error))\n    return found",
        "bad.py": "raise ValueError('bad')",
    }
    assert python(files).result == ["bad", "bad"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_jail_that_has_the_libraries_ready_has_loaded_them_and_works_as_any_other(run: Runner, runtime: str) -> None:
    names = runtimes.named(runtime).preload
    source = f"""
    import sys
    loaded = [name for name in {names!r} if name in sys.modules]
    def handler(payload, context):
        print("said")
        return [loaded, sys.argv]
    """
    ran = Python(run, runtime)(source, preloaded=True)
    assert ran.result == [list(names), ["/boot/boot.py"]]
    assert ran.texts == ["said"]
