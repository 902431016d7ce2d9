"""Forbidden constructs under every name that leads to them for certain, and what only looks like one."""

import pytest

from tests.millrace.checks.python.support import check_body, rules

FORBIDDEN = [
    "eval('1')",
    "exec('x = 1')",
    "compile('1', 'x', 'eval')",
    "e = eval; e('1')",
    "eval = eval",
    "map(eval, payload)",
    "def f(run=eval): ...",
    "class A:\n    def eval(self): return eval('1')",
    "class A:\n    eval = print\n    def run(self): return eval('1')",
    "[eval(x) for x in y]",
    "__import__('json')",
    "__import__(name)",
    "import builtins; builtins.eval('1')",
    "import builtins as b; c = b; c.exec('1')",
    "import builtins; getattr(builtins, 'eval')('1')",
    "import builtins; getattr(builtins, 'ev' + 'al')('1')",
    "import builtins; name = 'eval'; getattr(builtins, name)('1')",
    "import builtins; getattr(builtins, f'ev{\"al\"}')('1')",
    "import builtins; g = getattr; g(builtins, 'eval')",
    "import builtins; vars(builtins)['eval']",
    "import builtins; builtins.__dict__['eval']",
    "import builtins; builtins.__dict__.get('eval')",
    "import builtins; builtins.__getattribute__('eval')",
    "(b := __import__('builtins')).eval('1')",
    "__builtins__.eval('1')",
    "__builtins__['eval']",
    "x = __builtins__",
    "globals()['eval']('1')",
    "globals()['__builtins__']",
    "print.__self__.eval('1')",
    "__loader__.load_module('os')",
    "import os; os.system('x')",
    "import os as o; o.popen('x')",
    "from os import system as s; s('x')",
    "from os import fork",
    "from os import *\nsystem('x')",
    "import os.path; os.execv('x', [])",
    "import os; vars(os).get('system')('x')",
    "import json; json.os.system('x')",
    "import os\ndef f():\n    run = os.spawnl\n    run(1)",
    "import os; os._exit(1)",
    "import os; os.kill(1, 9)",
    "import asyncio; asyncio.create_subprocess_exec('x')",
    "from asyncio.subprocess import PIPE",
    "from concurrent.futures import ProcessPoolExecutor",
    "import concurrent.futures as c; c.ProcessPoolExecutor()",
    "import sys; sys._getframe(1)",
    "import sys; sys.modules['os']",
    "import sys; sys.modules['os'].system('x')",
    "from sys import modules; modules['os']",
    "import sys; sys.meta_path.append(x)",
    "import inspect; inspect.currentframe()",
    "import gc; gc.get_objects()",
    "().__class__.__base__.__subclasses__()",
    "f.__globals__",
    "f.__builtins__",
    "getattr(f, '__globals__')",
    "x.f_back.f_globals",
    "error.__traceback__.tb_frame",
    "import importlib; importlib.reload(x)",
    "import importlib.util",
    "from importlib import machinery",
    "import importlib; importlib.import_module(name)",
    "from importlib import import_module as i; i(f'{x}')",
    "from importlib import import_module; map(import_module, names)",
    "import types; types.FunctionType(code, {})",
    "from types import CodeType as C; C(1)",
]

FINE = [
    "medieval(1)",
    "'eval(1)'",
    "# eval(1)",
    "model.eval()",
    "df.eval('a + b')",
    "re.compile('x')",
    "from re import compile; compile('x')",
    "def compile(x): ...\ncompile(1)",
    "def exec(x): ...\ndef f(): return exec(1)",
    "def f(eval): return eval('1')",
    "lambda eval: eval('1')",
    "def f():\n    for eval in x: eval('1')",
    "def f():\n    def g(): return eval(1)\n    eval = print",
    "[eval(1) for eval in x]",
    "def f():\n    [0 for x in y if (eval := x)]\n    eval('1')",
    "try: x\nexcept E as eval: eval('1')",
    "with x as exec: exec(1)",
    "match x:\n    case {'a': eval, **exec}: eval(exec)",
    "import json as eval; eval.dumps(1)",
    "from helpers import *\neval('1')",
    "e = eval2; e('1')",
    "if x:\n    eval = print\neval('1')",
    "e = print if x else eval2",
    "system('x')",
    "os.system('x')",
    "def f(os): os.system('x')",
    "import os\ndef f(os): os.system('x')",
    "import os; os.environ['HOME']; os.path.join('a', 'b'); os.getpid()",
    "import os; getattr(os, name)",
    "import os; os.system = print",
    "self.popen('x')",
    "import asyncio; asyncio.run(x)",
    "import sys; sys.exit(1)",
    "import sys; 'json' in sys.modules",
    "import sys; sys.modules[__name__]",
    "type(x).__mro__; f.__code__.co_varnames; f.__name__; error.__traceback__",
    "import inspect; inspect.signature(f)",
    "import importlib; importlib.import_module('json')",
    "import importlib; load = importlib.import_module; load('json')",
    "import importlib.resources",
    "import types; isinstance(f, types.FunctionType); types.SimpleNamespace(a=1)",
    "getattr(x, 'eval'); x['eval']; globals()['y']; vars(x)['eval']",
    "import pickle; pickle.loads(x)",
]


@pytest.mark.parametrize("source", FORBIDDEN)
def test_what_is_forbidden_is_found_under_every_name(source: str) -> None:
    assert "forbidden-construct" in rules(source)


@pytest.mark.parametrize("source", FINE)
def test_what_only_looks_like_it_is_fine(source: str) -> None:
    assert rules(source) - {"unknown-module"} == set()


@pytest.mark.parametrize(
    ("source", "line", "column", "part"),
    [
        ("x = 'é😀'; eval('1')", 1, 12, "'eval' is forbidden: code from text is forbidden."),
        ("import os as o\no.system(1)", 2, 1, "'os.system' (here 'o.system') is forbidden: a script starts no process"),
        ("from os import path, system", 1, 22, "'os.system' is forbidden"),
        ("__import__('json')", 1, 1, "'__import__' is forbidden: write import json."),
        ("from concurrent.futures import ProcessPoolExecutor", 1, 32, "ThreadPoolExecutor works"),
        ("import importlib\nimportlib.import_module(x)", 2, 1, "as in import_module('json')"),
    ],
)
def test_a_finding_says_where_and_what(source: str, line: int, column: int, part: str) -> None:
    (found,) = check_body(source)
    assert (found.line, found.column) == (line, column)
    assert part in found.message


@pytest.mark.parametrize("source", ["e = eval; e('1')", "from os import system; system('x')"])
def test_a_forbidden_thing_is_reported_where_it_gets_its_name(source: str) -> None:
    assert len(check_body(source)) == 1
