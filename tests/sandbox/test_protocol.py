"""Frames, log records, checked results and log limits, without a jail."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import output, protocol, verdict
from sandbox.config import ConfigError, SandboxConfig
from sandbox.job import Kind, Limits

BOUNDS = {protocol.RESULT: 1000, protocol.CALL: 1000}


@given(
    st.lists(st.tuples(st.dictionaries(st.text(), st.integers()), st.binary(max_size=200)), max_size=5),
    st.integers(1, 50),
)
def test_frames_survive_being_cut_anywhere(frames: list[tuple[dict[str, int], bytes]], step: int) -> None:
    stream = b"".join(protocol.encode_frame(protocol.RESULT, head, data) for head, data in frames)
    reader = protocol.FrameReader(BOUNDS)
    read = [frame for at in range(0, len(stream), step) for frame in reader.feed(stream[at : at + step])]
    assert [(frame.header, frame.data) for frame in read] == frames


@given(st.binary(max_size=300))
def test_junk_is_refused_or_waits_but_never_breaks_the_reader(junk: bytes) -> None:
    try:
        assert all(isinstance(frame.header, dict) for frame in protocol.FrameReader(BOUNDS).feed(junk))
    except protocol.ProtocolError:
        return


def test_a_frame_over_its_bound_is_refused_by_its_first_bytes() -> None:
    start = struct.pack(">IcI", 5 + 2 + 1001, protocol.RESULT, 2)
    with pytest.raises(protocol.TooLarge) as caught:
        list(protocol.FrameReader(BOUNDS).feed(start))
    assert (caught.value.size, caught.value.bound) == (1001, 1000)


def record(level: str, time_ms: int, text: str) -> bytes:
    """As the jails' bootstraps write it."""
    if "\0" in text:
        level, text = level.lower(), json.dumps(text)
    return f"{level}{time_ms:013d}\0{text}\0".encode()


def rows(read: Iterable[protocol.Records]) -> list[tuple[str, int, str]]:
    return [row for each in read for row in zip(each.levels, each.times_ms, each.texts, strict=True)]


TEXTS = st.text(st.sampled_from("ab \n\0é\U0001f600\x7f"), max_size=30)


@given(st.lists(st.tuples(st.sampled_from("DIWEOR"), st.integers(0, 99), TEXTS), max_size=6), st.integers(1, 40))
def test_log_records_survive_being_cut_anywhere(records: list[tuple[str, int, str]], step: int) -> None:
    stream = b"".join(record(*each) for each in records)
    reader = protocol.LogReader()
    read = rows(reader.feed(stream[at : at + step]) for at in range(0, len(stream), step))
    assert read == [(protocol.LEVELS[level], time_ms, text) for level, time_ms, text in records]


@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(20, 200))
def test_records_are_counted_as_the_same_lines_are(texts: list[str], step: int) -> None:
    stream = b"".join(record("I", 1, text) for text in texts)
    reader, feed = protocol.LogReader(), output.LogFeed(100_000, 0)
    for at in range(0, len(stream), step):
        feed.add_records(reader.feed(stream[at : at + step]))
    assert [line.text for line in feed.take()] == texts
    assert feed.kept_bytes == sum(map(output.stored_bytes, texts))


@given(st.one_of(st.binary(max_size=200), st.text(st.sampled_from("Ii\0019"), max_size=60).map(str.encode)))
def test_junk_on_the_log_channel_is_refused_or_waits(junk: bytes) -> None:
    reader = protocol.LogReader()
    reader.feed(junk)
    if reader.damage is not None:
        assert reader.feed(record("I", 1, "x")) == protocol.NO_RECORDS


@pytest.mark.parametrize("bad", [b"\xff" * 20, b"I1\0x\0", b"S0000000000001\0x\0", b"i0000000000001\0x\0", b"\0"])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_records_before_a_damaged_one_are_kept(bad: bytes, step: int) -> None:
    reader = protocol.LogReader()
    stream = record("I", 1, "x") + bad + record("I", 1, "y")
    assert rows(reader.feed(stream[at : at + step]) for at in range(0, len(stream), step)) == [("INFO", 1, "x")]
    assert reader.damage is not None


@pytest.mark.parametrize("text", ["x" * protocol.LOG_RECORD_BYTES, "\0" * protocol.LOG_RECORD_BYTES, "é" * 131_072])
def test_a_record_is_as_long_as_allowed_and_no_longer(text: str) -> None:
    whole, longer = protocol.LogReader(), protocol.LogReader()
    assert rows([whole.feed(record("I", 1, text))]) == [("INFO", 1, text)]
    assert rows([longer.feed(record("I", 1, f"{text}x"))]) == []
    assert (whole.damage, longer.damage is None) == (None, False)


@pytest.mark.parametrize("endless", [b"I0000000000001\0" + b"x" * 4096, b"x" * 4096])
def test_what_has_no_end_is_not_kept_for_ever(endless: bytes) -> None:
    reader = protocol.LogReader()
    fed = 0
    while reader.damage is None:
        reader.feed(endless if not fed else b"x" * 4096)
        fed += 4096
    assert fed < 2 * 1024 * 1024


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b"-Infinity", b"1e999", b"\xff", b"[" * 100_000, b"1" * 100_000])
def test_what_is_no_json_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.parse_json(text)


@given(st.text(alphabet=st.characters(), max_size=50))
def test_cleaned_text_can_always_be_encoded(text: str) -> None:
    cleaned = output.clean(text)
    assert cleaned.encode().decode() == cleaned
    assert output.clean(text + "\ud83d") == cleaned + "\ufffd" or text.endswith("\ud83d")


def test_surrogate_pairs_are_joined_and_lone_ones_replaced() -> None:
    assert output.checked_result(b'["\\ud83d\\ude00", "\\ude00", 1.5]') == '["😀","\ufffd",1.5]'.encode()


def test_times_never_fall_and_never_lie_in_the_future() -> None:
    feed = output.LogFeed(1000, started_ms=5_000)
    feed.add_records(protocol.Records(["INFO"] * 3, [6_000, 100, 10**13 - 1], ["a", "b", "c"]))
    times = [line.time_ms for line in feed.take()]
    assert times[:2] == [6_000, 6_000]
    assert 6_000 < times[-1] <= time.time() * 1000


def test_no_line_passes_the_limit_and_all_that_is_lost_is_counted() -> None:
    feed = output.LogFeed(100, started_ms=0)
    feed.add_raw("STDOUT", ["x" * 50, "y" * 50, "z"])
    feed.drop(7)
    feed.end()
    lines = feed.take()
    assert [line.text[0] for line in lines] == ["x", "T"]
    assert lines[-1].level == "SYSTEM"
    assert "124 bytes were dropped" in lines[-1].text


def test_raw_bytes_become_lines_wherever_they_are_cut() -> None:
    raw = output.RawLines()
    data = "é\n\nü".encode()
    lines = [line for at in range(len(data)) for line in raw.feed(data[at : at + 1])]
    assert lines + raw.end() == ["é", "", "ü"]


@pytest.mark.parametrize(
    ("code", "oom_kills", "stderr", "kind"),
    [
        (137, 1, b"", Kind.MEMORY),
        (137, 0, b"", Kind.KILLED),
        (
            139,
            0,
            b"FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            Kind.MEMORY,
        ),
        (139, 0, b"", Kind.CRASH),
        (133, 0, b"", Kind.CRASH),
        (159, 0, b"", Kind.KILLED),
        (0, 0, b"", Kind.NO_RESULT),
        (1, 0, b"JavaScript heap out of memory", Kind.EXIT),
        (255, 0, b"", Kind.EXIT),
        (143, 0, b"", Kind.KILLED),
    ],
)
def test_the_kernels_word_decides_how_a_silent_run_ended(code: int, oom_kills: int, stderr: bytes, kind: Kind) -> None:
    assert verdict.judge(code, oom_kills, stderr, Limits())[0] == kind


@pytest.mark.parametrize(("runtime_mb", "named"), [(0, 256), (64, 192)])
def test_the_memory_limit_that_is_named_is_the_scripts_own(runtime_mb: int, named: int) -> None:
    _, error = verdict.judge(137, 1, b"", Limits(memory_mb=256, runtime_mb=runtime_mb))
    assert error.message == f"The script needed more than its limit of {named} MB of memory"


def test_the_runtimes_reserve_leaves_the_script_something() -> None:
    with pytest.raises(ValueError, match="runtime_mb is 256, but must be between 0 and 255"):
        Limits(memory_mb=256, runtime_mb=256)


@pytest.mark.parametrize("field", ["memory_mb", "timeout_ms", "pids", "cpus", "result_bytes"])
def test_a_limit_out_of_range_names_field_value_and_rule(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is -1, but must be between"):
        Limits(**{field: -1})


def test_settings_come_from_the_environment() -> None:
    config = SandboxConfig.from_env(
        {
            "MILLRACE_HOME": "/h",
            "MILLRACE_SANDBOX_MODE": "permissive",
            "MILLRACE_WARM_JAILS": "0",
            "MILLRACE_EGRESS_ALLOW": "a:1, b",
        }
    )
    assert (str(config.home), config.mode, config.warm_jails, config.egress_allow) == (
        "/h",
        "permissive",
        0,
        ("a:1", "b"),
    )


@pytest.mark.parametrize("value", ["-1", "1.5", "٣", "1001", "two"])
def test_a_number_of_jails_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="MILLRACE_WARM_JAILS"):
        SandboxConfig.from_env({"MILLRACE_WARM_JAILS": value})
