"""Every way in which a run of a Python handler can end, in real jails."""

from __future__ import annotations

import threading
import time

import pytest

from sandbox.job import Limits
from tests.sandbox.python_support import RUNTIMES, Python
from tests.sandbox.support import Recorder, Runner


@pytest.fixture
def python(run: Runner) -> Python:
    return Python(run)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_handler_gets_its_payload_and_its_result_comes_back(run: Runner, runtime: str, kind: str) -> None:
    source = f"""
    import sys
    {kind} handler(payload, context):
        print("hello", payload["name"])
        return {{"hello": payload["name"], "version": "python%d.%d" % sys.version_info[:2]}}
    """
    ran = Python(run, runtime)(source, {"name": "x"})
    assert (ran.kind, ran.result, ran.outcome.error) == ("succeeded", {"hello": "x", "version": runtime}, None)
    assert ran.outcome.reached_handler
    assert ran.sink.starts == 1
    assert ran.sink.levels == [("INFO", "hello x")]


@pytest.mark.parametrize(
    ("source", "entry_point"),
    [
        ("def handler(p, c): return 1", "handler"),
        ("def handler(p, c): return 1", "main.handler"),
        ("def other(p, c): return 1", "other"),
        ("handler = lambda p, c: 1", "handler"),
        ("class Handler:\n    def __call__(self, p, c): return 1\nhandler = Handler()", "handler"),
        ("class Handler:\n    async def __call__(self, p, c): return 1\nhandler = Handler()", "handler"),
        ("class Handler:\n    async def run(self, p, c): return 1\nhandler = Handler().run", "handler"),
        ("import functools\nasync def f(x, p, c): return x\nhandler = functools.partial(f, 1)", "handler"),
        ("async def f(p, c): return 1\ndef handler(p, c): return f(p, c)", "handler"),
    ],
)
def test_each_way_to_define_and_to_name_a_handler_works(python: Python, source: str, entry_point: str) -> None:
    assert python(source, entry_point=entry_point).result == 1


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_exception_has_name_message_and_the_scripts_own_lines(python: Python, kind: str) -> None:
    ran = python(f"def deep():\n    raise TypeError('boom')\n{kind} handler(payload, context):\n    deep()\n")
    assert ran.kind == "exception"
    error = ran.outcome.error
    assert error is not None
    assert (error.name, error.message) == ("TypeError", "boom")
    assert [line for line in error.stack.splitlines() if "^" not in line] == [
        "Traceback (most recent call last):",
        '  File "main.py", line 4, in handler',
        "    deep()",
        '  File "main.py", line 2, in deep',
        "    raise TypeError('boom')",
        "TypeError: boom",
    ]


def test_an_exception_names_the_file_of_the_project_in_which_it_was_raised(python: Python) -> None:
    files = {
        "main.py": "from lib.parse import parse\ndef handler(payload, context):\n    return parse(payload)",
        "lib/parse.py": "import json\ndef parse(text):\n    return json.loads('{')",
    }
    error = python(files).outcome.error
    assert error is not None
    assert error.name == "JSONDecodeError"
    assert 'File "lib/parse.py", line 3, in parse\n    return json.loads' in error.stack
    assert error.stack.count("File ") == 2


def test_causes_and_groups_are_told(python: Python) -> None:
    source = """
    def handler(payload, context):
        try:
            {}["key"]
        except KeyError as error:
            if payload == "cause":
                raise ValueError("wrapped") from error
            raise ExceptionGroup("several", [ValueError("one"), TypeError("two")]) from None
    """
    wrapped, group = python(source, "cause").outcome.error, python(source, "group").outcome.error
    assert wrapped is not None
    assert group is not None
    assert wrapped.message == "wrapped"
    cause, _, rest = wrapped.stack.partition("The above exception was the direct cause of the following exception:")
    assert cause.strip().endswith("KeyError: 'key'")
    assert rest.strip().endswith("ValueError: wrapped")
    assert (group.name, group.message) == ("ExceptionGroup", "several (2 sub-exceptions)")
    assert "ValueError: one" in group.stack
    assert "TypeError: two" in group.stack


def test_the_error_at_the_end_of_a_long_chain_is_told_and_the_chain_is_cut(python: Python) -> None:
    error = python.body(
        """
        error = None
        for number in range(5000):
            try:
                raise ValueError(number) from error
            except ValueError as caught:
                error = caught
        raise error
        """
    ).outcome.error
    assert error is not None
    assert error.message == "4999"
    assert error.stack.endswith("ValueError: 4999")
    assert 2 <= error.stack.count("Traceback") < 50


@pytest.mark.parametrize(
    ("statements", "name", "message"),
    [
        ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt", "mine"),
        ("raise GeneratorExit", "GeneratorExit", ""),
        ("raise BaseException('base')", "BaseException", "base"),
        ("class Own(Exception): pass\nraise Own('x')", "Own", "x"),
        ("raise ValueError({'a': 1})", "ValueError", "{'a': 1}"),
        ("raise KeyError('k')", "KeyError", "'k'"),
        ("return 1 / 0", "ZeroDivisionError", "division by zero"),
        ("raise 'text'", "TypeError", "exceptions must derive from BaseException"),
        ("return (lambda again: again(again))(lambda again: again(again))", "RecursionError", None),
        ("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)", "KeyboardInterrupt", ""),
        ("return [0] * (1 << 62)", "MemoryError", ""),
        ("return context.nothing", "AttributeError", None),
        ("raise StopIteration(5)", "StopIteration", "5"),
    ],
)
def test_whatever_is_raised_is_described(python: Python, statements: str, name: str, message: str | None) -> None:
    ran = python.body(statements)
    assert ran.kind == "exception"
    assert ran.outcome.error is not None
    assert ran.outcome.error.name == name
    assert message is None or ran.message == message


def test_a_coroutine_that_is_cancelled_is_an_exception(python: Python) -> None:
    ran = python.async_body("import asyncio\nasyncio.current_task().cancel()\nawait asyncio.sleep(1)")
    assert ran.kind == "exception"
    assert ran.outcome.error is not None
    assert ran.outcome.error.name == "CancelledError"


def test_a_handler_that_takes_other_arguments_is_told_so(python: Python) -> None:
    ran = python("def handler(payload):\n    return 1")
    assert ran.kind == "exception"
    assert ran.message == "handler() takes 1 positional argument but 2 were given"


def test_far_more_of_an_error_comes_out_than_is_kept_and_its_place_with_it(python: Python) -> None:
    ran = python("def handler(p, c):\n    raise type('\\x01' * 1000000, (Exception,), {})('\\x01' * 1000000)")
    assert ran.kind == "exception"
    assert ran.outcome.error is not None
    assert 270_000 < len(ran.message) < 290_000
    assert 270_000 < len(ran.outcome.error.name) < 290_000
    assert 'File "main.py", line 2, in handler' in ran.outcome.error.stack


def test_an_error_full_of_astral_characters_fits_its_frame(python: Python) -> None:
    ran = python.body("raise type('\\U0001f600' * 300000, (Exception,), {})('\\U0001f600' * 300000)")
    assert ran.kind == "exception"
    assert ran.message.startswith("\U0001f600" * 270_000)


def test_a_syntax_error_is_a_load_error_with_its_place(python: Python) -> None:
    ran = python("def handler(payload, context):\n    retrun 3\n")
    assert ran.kind == "load_error"
    assert ran.outcome.error is not None
    assert ran.outcome.error.name == "SyntaxError"
    assert '  File "main.py", line 2\n    retrun 3' in ran.outcome.error.stack
    assert not ran.outcome.reached_handler
    assert ran.sink.starts == 0


@pytest.mark.parametrize("source", ["1 / 0", "import nothing_of_that_name", "raise GeneratorExit", "\0", "\\xff = 1"])
def test_an_error_at_the_top_level_is_a_load_error(python: Python, source: str) -> None:
    ran = python(source)
    assert ran.kind == "load_error"
    assert not ran.outcome.reached_handler


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("", "it defines no function"),
        ("handler = 'text'", "it defines no function"),
        ("def other(p, c): pass\ndef _hidden(): pass", "it defines other"),
    ],
)
def test_a_script_without_its_handler_is_told_what_it_defines(python: Python, source: str, part: str) -> None:
    ran = python(source)
    assert ran.kind == "no_handler"
    assert ran.message == f"The script does not define a function named handler; {part}"
    assert not ran.outcome.reached_handler


@pytest.mark.parametrize(
    "source",
    [
        "def handler(p, c):\n    while True: pass",
        "import time\ndef handler(p, c): time.sleep(60)",
        "import asyncio\nasync def handler(p, c): await asyncio.sleep(60)",
        "import re\ndef handler(p, c): re.match('(a+)+$', 'a' * 64 + 'b')",
        "while True: pass",
    ],
)
def test_a_run_over_its_time_is_ended(python: Python, source: str) -> None:
    ran = python(source, limits=Limits(timeout_ms=300))
    assert ran.kind == "timeout"
    assert ran.message == "The run took longer than its time limit of 0.3 s"


def test_lines_written_before_a_timeout_are_kept(python: Python) -> None:
    ran = python.body("print('before')\nwhile True: pass", limits=Limits(timeout_ms=500))
    assert ran.kind == "timeout"
    assert ran.texts == ["before"]


def test_a_cancelled_run_is_ended(python: Python) -> None:
    cancel = threading.Event()
    sink = Recorder(on_first_line=cancel.set)
    began = time.monotonic()
    assert python.body("print('x')\nwhile True: pass", cancel=cancel, sink=sink).kind == "cancelled"
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "statements",
    [
        "kept = []\nwhile True: kept.append(bytearray(8_000_000))",
        "kept = []\nwhile True: kept.append({n: [n] for n in range(10_000)})",
        "import mmap\nkept = []\nwhile True: kept.append(mmap.mmap(-1, 8_000_000)); kept[-1].write(bytes(8_000_000))",
    ],
)
def test_a_hog_ends_by_memory_and_the_next_run_is_unharmed(python: Python, statements: str) -> None:
    if "mmap" in statements:
        statements = f"exec({statements!r}, {{}})"  # where the import statement is Python's own
    ran = python.body(statements, limits=Limits(memory_mb=128, timeout_ms=20_000))
    assert ran.kind == "memory"
    assert ran.message == "The script needed more than its limit of 128 MB of memory"
    assert python.body("return 2", limits=Limits(memory_mb=128)).result == 2


@pytest.mark.parametrize(
    ("argument", "shown"), [("3", "3"), ("", ""), ("'bye'", "'bye'"), ("None", ""), ("object()", "...")]
)
def test_sys_exit_is_told_as_such_with_its_place(python: Python, argument: str, shown: str) -> None:
    ran = python(f"import sys\ndef handler(payload, context):\n    sys.exit({argument})")
    assert ran.kind == "exit"
    assert ran.message == f"The script called sys.exit({shown}) before its handler returned"
    assert ran.outcome.error is not None
    assert 'File "main.py", line 3, in handler' in ran.outcome.error.stack


@pytest.mark.parametrize("source", ["import sys\nsys.exit(3)", "import sys\nasync def handler(p, c): sys.exit(3)"])
def test_an_exit_is_one_wherever_it_happens(python: Python, source: str) -> None:
    assert python(source).kind == "exit"


def test_an_exit_behind_the_bootstraps_back_is_seen_all_the_same(python: Python) -> None:
    ran = python.body("import os\nos._exit(9)")
    assert ran.kind == "exit"
    assert "code 9" in ran.message


def test_an_abort_is_a_crash(python: Python) -> None:
    assert python.body("import os\nos.abort()").kind == "crash"


def test_a_coroutine_that_nothing_can_continue_is_no_result(python: Python) -> None:
    ran = python.async_body("import asyncio\nawait asyncio.get_running_loop().create_future()")
    assert ran.kind == "no_result"
    assert "nothing was left that could make it go on" in ran.message


def test_a_loop_that_goes_on_in_a_thread_does_not_spoil_the_result(python: Python) -> None:
    source = """
    import asyncio, threading
    loop = asyncio.get_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    async def work():
        asyncio.create_task(asyncio.sleep(60))
        return 1
    def handler(payload, context):
        return asyncio.run_coroutine_threadsafe(work(), loop).result()
    """
    assert python(source).result == 1


def test_a_loop_of_a_plain_function_that_nothing_can_continue_is_told(python: Python) -> None:
    ran = python.body("import asyncio\nloop = asyncio.get_event_loop()\nloop.run_until_complete(loop.create_future())")
    assert ran.kind == "exception"
    assert ran.message == "nothing was left that could make it go on"


@pytest.mark.parametrize(
    "statements",
    [
        "loop.call_later(0.2, future.set_result, 1)\nreturn await future",
        "import threading, time\nthreading.Thread(\n"
        "    target=lambda: (time.sleep(0.2), loop.call_soon_threadsafe(future.set_result, 1))).start()\n"
        "return await future",
        "import time\nawait loop.run_in_executor(None, time.sleep, 0.2)\nreturn 1",
        "await context.publish('x')\nreturn 1",
    ],
)
def test_a_coroutine_that_something_continues_is_waited_for(python: Python, statements: str) -> None:
    head = "import asyncio\nloop = asyncio.get_running_loop()\nfuture = loop.create_future()\n"
    assert python.async_body(head + statements, sink=Recorder(answer=lambda method, params: None)).result == 1


@pytest.mark.parametrize(
    ("expression", "json"),
    [
        ("None", b"null"),
        ("0", b"0"),
        ("True", b"true"),
        ("''", b'""'),
        ("[1, 'a', None, (2, 3)]", b'[1,"a",null,[2,3]]'),
        ("{'a': None, 1: 2, None: 3, 1.5: 4, False: 5}", b'{"a":null,"1":2,"null":3,"1.5":4,"false":5}'),
        ("'\\u00e9\\U0001F600'", '"\u00e9\U0001f600"'.encode()),
        ("'\\0'", b'"\\u0000"'),
        ("'\\ud800x'", '"\ufffdx"'.encode()),
        ("10 ** 30", b"1" + b"0" * 30),
        ("1e21", b"1e+21"),
        ("__import__('enum').IntEnum('E', 'A B').B", b"2"),
    ],
)
def test_any_json_comes_through(python: Python, expression: str, json: bytes) -> None:
    assert python.body(f"return {expression}").outcome.result == json


@pytest.mark.parametrize(
    ("statements", "part"),
    [
        ("return {1, 2}", "The handler returned a set, which JSON can not express"),
        ("return b'x'", "a bytes"),
        ("return handler", "a function"),
        ("return float('nan')", "nan"),
        ("return [float('-inf')]", "-inf at [0]"),
        ("import datetime\nreturn {'a': [{'b': datetime.datetime.now()}]}", "a datetime at ['a'][0]['b']"),
        ("import decimal\nreturn {'price': decimal.Decimal('1.5')}", "a Decimal at ['price']"),
        ("return {'ids': {1, 2}}", "a set at ['ids']"),
        ("return {(1, 2): 3}", "a tuple as a key at its root"),
        ("a = {}\na['self'] = [a]\nreturn a", "a circular reference at ['self'][0]"),
        ("yield 1", "a generator"),
        ("async def f(): pass\nreturn {'a': f()}", "a coroutine that was not awaited at ['a']"),
        ("class Own: pass\nreturn Own()", "an Own"),
        ("class Own(dict):\n    def items(self): raise ValueError('no items')\nreturn Own(a=1)", "no items"),
        ("a = []\nfor _ in range(100_000): a = [a]\nreturn a", "nested too deeply"),
        ("return 10 ** 5000", "4300 digits"),
    ],
)
def test_what_is_no_json_is_a_bad_result_that_says_what_and_where(python: Python, statements: str, part: str) -> None:
    ran = python.body(statements)
    assert ran.kind == "bad_result"
    assert part in ran.message
    assert ran.outcome.result is None


def test_a_result_over_its_limit_is_refused_with_both_sizes(python: Python) -> None:
    ran = python.body("return 'x' * 2000", limits=Limits(result_bytes=1000))
    assert ran.kind == "result_too_large"
    assert ran.message == "The result is 2002 bytes; at most 1000 are allowed"


def test_a_result_of_many_megabytes_comes_through(python: Python) -> None:
    assert python.body("return 'x' * (6 * 1024 * 1024 - 2)").result == "x" * (6 * 1024 * 1024 - 2)


def test_a_large_payload_and_many_files_reach_the_script(python: Python) -> None:
    files = {"main.py": "import m199, data\ndef handler(p, c): return [len(p), len(data.TEXT), m199.NUMBER]"}
    files["data.py"] = f"TEXT = {'y' * 3_000_000!r}"
    files.update({f"m{number}.py": f"NUMBER = {number}" for number in range(200)})
    assert python(files, "z" * 5_000_000).result == [5_000_000, 3_000_000, 199]
