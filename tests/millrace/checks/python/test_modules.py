"""Modules: those on offer, the forbidden ones, the unknown ones with a hint, the files of a project."""

import pytest

from millrace.checks import Finding
from millrace.checks.python.modules import FORBIDDEN
from tests.millrace.checks.python.support import check_body, rules

FILES = ("main.py", "orders.py", "lib/__init__.py", "lib/prices.py", "lib/deep/rates.py", "data/rates.json")


@pytest.mark.parametrize("name", ["subprocess", "multiprocessing", "ctypes", "runpy", "code", "posix", "pty"])
@pytest.mark.parametrize(
    "spelling",
    [
        "import {}",
        "import json, {} as x",
        "import {}.part",
        "from {} import x",
        "from {}.part import *",
        "def f():\n    import {}",
        "try:\n    import {}\nexcept ImportError:\n    pass",
        "__import__('{}')",
        "import importlib; importlib.import_module('{}')",
        "import importlib; importlib.import_module(name='{}')",
    ],
)
def test_a_denied_module_is_refused_under_every_spelling(name: str, spelling: str) -> None:
    assert "forbidden-module" in rules(spelling.format(name))


def test_a_denied_module_stays_denied_when_a_runtime_lists_it() -> None:
    assert rules("import subprocess", modules=frozenset(FORBIDDEN)) == {"forbidden-module"}


@pytest.mark.parametrize(
    "source",
    ["import json", "import urllib.request as r", "from urllib import parse", "from __future__ import annotations"],
)
def test_what_the_runtime_offers_is_available(source: str) -> None:
    assert check_body(source) == []


def test_a_runtime_may_list_a_part_of_a_package() -> None:
    assert check_body("from xml.etree import ElementTree", modules=frozenset(("xml.etree",))) == []


@pytest.mark.parametrize("name", ["socket", "sqlite3", "xml.dom"])
def test_other_modules_of_the_standard_library_are_refused_unless_the_runtime_lists_them(name: str) -> None:
    (found,) = check_body(f"import {name}")
    assert found.rule == "forbidden-module"
    assert f"The module '{name}' of the standard library is not available in python3." in found.message
    assert "Available: asyncio, base64" in found.message
    assert check_body(f"import {name}", modules=frozenset((name.partition(".")[0],))) == []


def test_an_unknown_module_is_named_with_what_is_near() -> None:
    (found,) = check_body("import json, reqests.sessions")
    assert (found.rule, found.line, found.column) == ("unknown-module", 1, 14)
    assert "There is no module 'reqests.sessions'" in found.message
    assert "Did you mean 'requests'? Available: asyncio, base64" in found.message


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import ujson\nexcept ImportError:\n    ujson = None",
        "try:\n    from ujson import loads\nexcept (KeyError, ModuleNotFoundError): ...",
        "try:\n    import fcntl\nexcept Exception: ...",
        "try:\n    if x:\n        import ujson\nexcept: ...",
        "with suppress(ImportError):\n    import ujson",
        "with contextlib.suppress(KeyError, ImportError):\n    import ujson",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mypy",
        "import typing\nif typing.TYPE_CHECKING:\n    import mypy",
    ],
)
def test_an_import_that_may_fail_or_never_runs_is_no_finding(source: str) -> None:
    assert check_body(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import ujson\nexcept KeyError: ...",
        "try: ...\nexcept ImportError:\n    import ujson",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING: ...\nelse:\n    import mypy",
    ],
)
def test_an_import_whose_failure_nobody_catches_is_refused(source: str) -> None:
    assert rules(source) == {"unknown-module"}


def project(source: str, path: str = "main.py") -> list[Finding]:
    return check_body(source, files=FILES, path=path)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("import orders", "main.py"),
        ("import lib.prices", "main.py"),
        ("from lib import prices, anything", "main.py"),
        ("from lib.deep import rates", "main.py"),
        ("from lib.deep.rates import x", "lib/prices.py"),
        ("import orders", "lib/prices.py"),
        ("from . import prices", "lib/prices.py"),
        ("from .deep import rates", "lib/prices.py"),
        ("from ..prices import x", "lib/deep/rates.py"),
        ("from .. import prices", "lib/deep/rates.py"),
        ("from orders import *", "main.py"),
    ],
)
def test_a_file_of_the_project_is_found(source: str, path: str) -> None:
    assert project(source, path) == []


@pytest.mark.parametrize(
    ("source", "path", "part"),
    [
        ("import lib.price", "main.py", "There is no file 'lib/price.py' in the project, seen from 'main.py'. Did you"),
        ("from lib.deep import nothing", "main.py", "no file 'lib/deep/nothing.py'"),
        ("import orders.part", "main.py", "no file 'orders/part.py'"),
        ("from . import orders", "main.py", "cannot be resolved from 'main.py': write import orders."),
        ("from ... import x", "lib/prices.py", "outside of any package"),
        ("import prices", "lib/main.py", "For the file in the same folder, write from . import prices."),
        ("from .nothing import x", "lib/prices.py", "no file 'lib/nothing.py'"),
    ],
)
def test_a_file_that_is_not_there_is_named(source: str, path: str, part: str) -> None:
    (found,) = project(source, path)
    assert found.rule == "unknown-module"
    assert part in found.message


def test_a_single_file_has_no_other_files() -> None:
    (found,) = check_body("from . import x")
    assert "put its code here" in found.message


def test_a_file_of_the_project_goes_before_a_module_of_its_name() -> None:
    assert check_body("import code; code.x()\nfrom os import system", files=("code.py", "os.py"), path="main.py") == []
