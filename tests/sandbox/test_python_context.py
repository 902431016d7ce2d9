"""The world of a Python handler: context, log, environment."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sandbox import output
from sandbox.job import Limits
from tests.sandbox.python_support import Python
from tests.sandbox.support import Recorder, Runner

MEMBERS = {
    "runId": "r",
    "workspaceId": "w",
    "scriptUuid": "u",
    "scriptId": "s",
    "scriptVersion": 3,
    "attempt": 2,
    "trigger": {"type": "schedule", "dueAt": "2026-01-01T00:00:00Z"},
}


@pytest.fixture
def python(run: Runner) -> Python:
    return Python(run)


def test_the_context_has_what_the_job_gave_it(python: Python) -> None:
    ran = python.body(
        """
        names = ["run_id", "workspace_id", "script_uuid", "script_id", "script_version", "attempt", "trigger"]
        return [[getattr(context, name) for name in names], context.secrets["API_KEY"], dict(context.secrets)]
        """,
        context=MEMBERS,
        secrets={"API_KEY": "k"},
    )
    trigger = {"type": "schedule", "due_at": "2026-01-01T00:00:00Z"}
    assert ran.result == [["r", "w", "u", "s", 3, 2, trigger], "k", {"API_KEY": "k"}]


def test_what_the_job_did_not_give_is_none(python: Python) -> None:
    assert python.body("return [context.run_id, context.trigger, len(context.secrets)]").result == [None, None, 0]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_copy_of_the_context_is_the_context(python: Python, kind: str) -> None:
    source = f"""
    import copy, dataclasses, typing
    @dataclasses.dataclass
    class Job:
        context: typing.Any
    {kind} handler(payload, context):
        copies = [copy.copy(context), copy.deepcopy(context), dataclasses.asdict(Job(context))["context"]]
        return [each is context for each in copies]
    """
    assert python(source).result == [True, True, True]


@pytest.mark.parametrize(
    "statement",
    [
        "context.run_id = 'x'",
        "context.new = 1",
        "del context.run_id",
        "context.publish = print",
        "context.secrets['A'] = 'x'",
        "del context.secrets['A']",
    ],
)
def test_the_context_is_read_only(python: Python, statement: str) -> None:
    ran = python.body(statement, secrets={"A": "a"})
    assert ran.kind == "exception"
    assert ran.outcome.error is not None
    assert ran.outcome.error.name in ("AttributeError", "TypeError")


def test_an_attribute_that_is_not_there_is_answered_with_those_that_are(python: Python) -> None:
    message = python.body("return context.runId").message
    assert message.startswith("the context has no 'runId'; it has attempt, get_remaining_time_ms")


def test_printing_the_context_does_not_print_secrets(python: Python) -> None:
    ran = python.body("print(context, context.secrets, vars)", secrets={"API_KEY": "hunter2"})
    assert "hunter2" not in ran.texts[0]
    assert "API_KEY" in ran.texts[0]


def test_the_remaining_time_falls_and_warns_in_the_last_tenth(python: Python) -> None:
    statements = """
    import time
    at = [context.get_remaining_time_ms(), context.is_timing_out()]
    time.sleep(1.85)
    return [*at, context.get_remaining_time_ms(), context.is_timing_out()]
    """
    first, early, second, late = python.body(statements, limits=Limits(timeout_ms=2000)).result
    assert 1500 < first <= 2000
    assert 0 <= second <= 150
    assert (early, late) == (False, True)


@pytest.mark.parametrize("awaiting", ["", "await "])
def test_artifacts_arrive_whole_with_their_type(python: Python, awaiting: str) -> None:
    write = f"{awaiting}context.write_artifact"
    statements = f"""
    {write}("a.txt", "text é")
    {write}("b.json", {{"x": [1]}})
    {write}("c.bin", bytes([0, 255]))
    {write}("d.csv", "a,b", "text/csv")
    {write}("e.bin", memoryview(b"12"), content_type="image/png")
    {write}("f.txt", "z" * 3_000_000)
    """
    ran = (python.async_body if awaiting else python.body)(statements)
    assert ran.kind == "succeeded"
    assert [(name, content_type) for name, content_type, _ in ran.sink.artifacts] == [
        ("a.txt", "text/plain; charset=utf-8"),
        ("b.json", "application/json"),
        ("c.bin", "application/octet-stream"),
        ("d.csv", "text/csv"),
        ("e.bin", "image/png"),
        ("f.txt", "text/plain; charset=utf-8"),
    ]
    contents = [data for _, _, data in ran.sink.artifacts]
    assert contents[0] == "text é".encode()
    assert json.loads(contents[1]) == {"x": [1]}
    assert contents[2:5] == [b"\x00\xff", b"a,b", b"12"]
    assert contents[5] == b"z" * 3_000_000


@pytest.mark.parametrize("awaiting", ["", "await "])
@pytest.mark.parametrize(
    ("call", "part"),
    [
        ("write_artifact('../up', 'x')", "name is '../up'"),
        ("write_artifact('a\\n', 'x')", "name is 'a\\n'"),
        ("write_artifact('', 'x')", "name is ''"),
        ("write_artifact(5, 'x')", "name is 5"),
        ("write_artifact('a', 'x', 'bad\\ntype')", "content_type"),
        ("write_artifact('a', {1, 2})", "data must be"),
        ("write_artifact('a', 'x' * 2000)", "bytes of a run are left"),
        ("publish('', 1)", "name must be a str"),
        ("publish('x', {1})", "not JSON"),
        ("publish('x', float('nan'))", "not JSON"),
        ("publish('x', 'y' * 2_000_000)", "at most 1048576"),
        ("publish('x', 1)", "nobody answers here"),
    ],
)
def test_a_call_with_a_wrong_argument_is_refused_and_the_run_goes_on(
    python: Python, awaiting: str, call: str, part: str
) -> None:
    statements = f"""
    try:
        {awaiting}context.{call}
    except Exception as error:
        return str(error)
    """
    run_body = python.async_body if awaiting else python.body
    assert part in run_body(statements, limits=Limits(artifact_bytes=1000)).result


def test_a_run_may_write_only_so_many_artifacts(python: Python) -> None:
    ran = python.body("for name in 'abc': context.write_artifact(name, '1')", limits=Limits(artifacts=2))
    assert "at most 2 artifacts" in ran.message
    assert len(ran.sink.artifacts) == 2


def _upper(method: str, params: dict[str, Any]) -> Any:
    return {"id": params["name"].upper()}


def test_events_are_published_through_the_sink(python: Python) -> None:
    ran = python.body("return [context.publish('a.b', {'n': 1}), context.publish('c')]", sink=Recorder(answer=_upper))
    assert ran.result == [{"id": "A.B"}, {"id": "C"}]
    assert ran.sink.calls == [
        ("events.publish", {"name": "a.b", "data": {"n": 1}}),
        ("events.publish", {"name": "c", "data": None}),
    ]
    assert ran.outcome.usage.sdk_calls == 2


def test_coroutines_publish_at_the_same_time_and_each_gets_its_own_answer(python: Python) -> None:
    ran = python.async_body(
        """
        import asyncio
        calls = asyncio.gather(*(context.publish(f"e{n}") for n in range(200)))
        ticks = 0
        while not calls.done():
            ticks += 1
            await asyncio.sleep(0)
        return [[answer["id"] for answer in await calls], ticks > 0]
        """,
        sink=Recorder(answer=_upper),
    )
    assert ran.result == [[f"E{n}" for n in range(200)], True]


def test_threads_publish_at_the_same_time_and_each_gets_its_own_answer(python: Python) -> None:
    ran = python.body(
        """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as threads:
            return [answer["id"] for answer in threads.map(context.publish, (f"e{n}" for n in range(200)))]
        """,
        sink=Recorder(answer=_upper),
    )
    assert ran.result == [f"E{n}" for n in range(200)]


def test_a_call_that_is_given_up_does_not_take_the_answer_of_the_next(python: Python) -> None:
    ran = python.async_body(
        """
        import asyncio
        first = asyncio.create_task(context.publish("first"))
        await asyncio.sleep(0)
        first.cancel()
        return await context.publish("second")
        """,
        sink=Recorder(answer=_upper),
    )
    assert ran.result == {"id": "SECOND"}


def test_everything_that_is_printed_has_its_level(python: Python) -> None:
    ran = python.body(
        """
        import logging, os, sys, warnings
        print("a", 1, sep="-")
        print("two\\nlines")
        print("no end", end="")
        sys.stderr.write("err\\n")
        print()
        log = logging.getLogger("own")
        log.debug("silent at first")
        log.info("info %s", 1); log.warning("warn"); log.error("error"); log.critical("worst")
        logging.getLogger().setLevel(logging.DEBUG)
        log.debug("debug")
        log.info("record\\nof two lines")
        sys.stdout.buffer.write("bytes é\\n".encode())
        sys.__stdout__.write("partial")
        """
    )
    assert ran.sink.levels == [
        ("INFO", "a-1"),
        ("INFO", "two"),
        ("INFO", "lines"),
        ("STDERR", "err"),
        ("INFO", "no end"),
        ("INFO", "info 1"),
        ("WARN", "warn"),
        ("ERROR", "error"),
        ("ERROR", "worst"),
        ("DEBUG", "debug"),
        ("INFO", "record\nof two lines"),
        ("INFO", "bytes é"),
        ("INFO", "partial"),
    ]


def test_the_configuration_of_logging_is_the_scripts(python: Python) -> None:
    source = """
    import logging
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")
    log = logging.getLogger("a.b")
    def handler(payload, context):
        log.debug("fine")
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("oops")
    """
    debug, error = python(source).sink.levels
    assert debug == ("DEBUG", "DEBUG a.b: fine")
    assert error[0] == "ERROR"
    assert error[1].startswith("ERROR a.b: oops\nTraceback (most recent call last):\n")
    assert '  File "main.py", line 7, in handler\n' in error[1]
    assert error[1].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "configuration",
    [
        "logging.basicConfig(level=logging.DEBUG, format=form)",
        "logging.basicConfig(level=logging.DEBUG, format=form, force=True)",
        "logging.basicConfig(level=logging.DEBUG, format='%(message)s')\n"
        "logging.basicConfig(level=logging.DEBUG, format=form, force=True)",
        "logging.basicConfig(stream=sys.stdout, level=logging.DEBUG, format=form)",
        "logging.basicConfig(level=logging.DEBUG, format=form, handlers=[logging.StreamHandler()])",
        "logging.root.handlers[0].setFormatter(logging.Formatter(form))\nlogging.root.setLevel(logging.DEBUG)",
        "logging.root.handlers.clear()\nlogging.basicConfig(level=logging.DEBUG, format=form)",
        "logging.config.dictConfig({'version': 1, 'formatters': {'f': {'format': form}}, 'handlers': {'h': "
        "{'class': 'logging.StreamHandler', 'formatter': 'f', 'stream': 'ext://sys.stdout'}}, "
        "'root': {'handlers': ['h'], 'level': 'DEBUG'}})",
    ],
)
def test_however_logging_is_configured_records_keep_their_level_and_their_lines(
    python: Python, configuration: str
) -> None:
    head = "import logging, logging.config, sys\nform = '%(name)s|%(message)s'\n"
    body = "def handler(p, c):\n    log = logging.getLogger('a')\n    log.debug('d')\n    log.error('one\\ntwo')"
    runs = [python(f"{head}{configuration}\n{body}", reuse_key=f"logging {configuration}") for _ in range(2)]
    assert [ran.sink.levels for ran in runs] == [[("DEBUG", "a|d"), ("ERROR", "a|one\ntwo")]] * 2


def test_a_handler_of_logging_that_breaks_no_lines_writes_as_it_likes(python: Python) -> None:
    ran = python.body(
        """
        import logging, sys
        own = logging.StreamHandler(sys.stdout)
        own.terminator = ""
        logging.root.handlers[:] = [own]
        logging.warning("a")
        logging.warning("b")
        """
    )
    assert ran.sink.levels == [("INFO", "ab")]


def test_what_is_written_to_the_raw_descriptors_is_kept_too(python: Python) -> None:
    levels = python.body("import os\nos.write(1, b'out\\n')\nos.write(2, b'err\\n')").sink.levels
    assert sorted(levels) == [("STDERR", "err"), ("STDOUT", "out")]


def test_an_error_that_ends_a_thread_is_told_and_the_run_goes_on(python: Python) -> None:
    source = """
    import threading
    def work():
        raise ValueError("in a thread")
    def handler(payload, context):
        thread = threading.Thread(target=work, name="worker")
        thread.start()
        thread.join()
        return 1
    """
    ran = python(source)
    assert ran.result == 1
    assert [level for level, _ in ran.sink.levels] == ["ERROR"]
    assert ran.texts[0].startswith("Exception in worker:\nTraceback (most recent call last):\n")
    assert '  File "main.py", line 3, in work\n' in ran.texts[0]
    assert "threading.py" not in ran.texts[0]


def test_an_error_of_a_task_that_nobody_awaits_is_told_and_the_run_goes_on(python: Python) -> None:
    source = """
    import asyncio
    async def work():
        raise ValueError("in a task")
    async def handler(payload, context):
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        del task
        return 1
    """
    ran = python(source)
    assert ran.result == 1
    assert [level for level, _ in ran.sink.levels] == ["ERROR"]
    assert "in a task" in ran.texts[0]


def test_lines_of_several_threads_are_not_mixed(python: Python) -> None:
    ran = python.body(
        """
        from concurrent.futures import ThreadPoolExecutor
        def say(number):
            for _ in range(50):
                print(number, "x" * 5000, number)
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(say, range(6)))
        """
    )
    assert sorted(ran.texts) == sorted(f"{number} {'x' * 5000} {number}" for number in range(6) for _ in range(50))


def test_lines_carry_the_time_at_which_they_were_written(python: Python) -> None:
    began = int(time.time() * 1000)
    ran = python.body("import time\nprint(1)\ntime.sleep(0.12)\nprint(2)")
    first, second = (line.time_ms for line in ran.sink.lines)
    assert began <= first <= second <= time.time() * 1000
    assert second - first >= 100


def test_lines_arrive_while_the_run_goes_on(python: Python) -> None:
    ran = python.body("import time\nfor number in range(6):\n    print(number)\n    time.sleep(0.15)")
    assert len(ran.sink.batches) >= 3


@pytest.mark.parametrize("size", [262_139, 262_140, 262_141, 262_144, 262_145, 524_288, 1_000_000, 0])
def test_the_last_piece_of_a_line_is_known_by_its_size(python: Python, size: int) -> None:
    ran = python.body(f"print('x' * {size})\nprint('next')")
    *pieces, last, following = ran.texts
    assert ("".join([*pieces, last]), following) == ("x" * size, "next")
    assert all(output.goes_on(piece) for piece in pieces)
    assert not output.goes_on(last)


def test_a_line_written_in_parts_is_kept_whole_in_pieces(python: Python) -> None:
    ran = python.body("for _ in range(40): print('é€' * 5000, end='')\nprint('\\nnext')")
    assert "".join(ran.texts) == "é€" * 200_000 + "next"
    assert [output.goes_on(text) for text in ran.texts] == [True] * (len(ran.texts) - 2) + [False] * 2


def test_a_log_over_its_limit_is_cut_and_says_so(python: Python) -> None:
    ran = python.body("for _ in range(1000): print('x' * 99)", limits=Limits(log_bytes=10_000))
    assert ran.kind == "succeeded"
    assert ran.outcome.usage.log_truncated
    assert ran.outcome.usage.log_bytes <= 10_000
    assert "cut at its limit of 10000 bytes: " in ran.texts[-1]


def test_lone_surrogates_and_control_characters_are_data(python: Python) -> None:
    assert python.body("print('\\ud800\\0\\x1b[31m')").texts == ["\ufffd\0\x1b[31m"]


def test_the_environment_is_the_jobs_and_nothing_of_the_hosts(python: Python) -> None:
    ran = python.body("import os\nreturn dict(os.environ)", env={"REGION": "eu"})
    authorities = "/boot/packages/certifi/cacert.pem"
    assert ran.result == {"HOME": "/tmp", "TZ": "UTC", "REGION": "eu", "SSL_CERT_FILE": authorities}


def test_the_time_zone_of_the_environment_counts(python: Python) -> None:
    statements = "import time\nreturn time.strftime('%H', time.localtime(0))"
    assert python.body(statements).result == "00"
    assert python.body(statements, env={"TZ": "EST5"}).result == "19"


def test_there_is_a_folder_for_files_and_no_input(python: Python) -> None:
    ran = python.body(
        """
        import pathlib, tempfile
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x"
            path.write_text("é")
            kept = path.read_text()
        try:
            input("name? ")
        except EOFError:
            return [folder.rpartition("/")[0], kept]
        """
    )
    assert ran.result == ["/tmp", "é"]
