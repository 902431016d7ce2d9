"""Frames, log records, checked results and log limits, without a jail."""

from __future__ import annotations

import struct

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


@given(st.lists(st.tuples(st.sampled_from("DIWEOR"), st.binary(max_size=100)), max_size=5), st.integers(1, 40))
def test_log_records_survive_being_cut_anywhere(records: list[tuple[str, bytes]], step: int) -> None:
    stream = b"".join(struct.pack(">Icd", 9 + len(text), level.encode(), 1.5) + text for level, text in records)
    reader = protocol.LogReader()
    read = [record for at in range(0, len(stream), step) for record in reader.feed(stream[at : at + step])]
    assert read == [(protocol.LEVELS[level], 1.5, text) for level, text in records]


@given(st.binary(max_size=200))
def test_junk_on_the_log_channel_is_refused_or_waits(junk: bytes) -> None:
    reader = protocol.LogReader()
    reader.feed(junk)
    if reader.damage is not None:
        assert reader.feed(struct.pack(">Icd", 9, b"I", 0.0)) == []


def test_records_before_a_damaged_one_are_kept() -> None:
    reader = protocol.LogReader()
    good = struct.pack(">Icd", 10, b"I", 0.0) + b"x"
    assert reader.feed(good + b"\xff" * 20 + good) == [("INFO", 0.0, b"x")]
    assert reader.damage is not None


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
    feed.add_records(
        [("INFO", 6_000.0, b"a"), ("INFO", 100.0, b"b"), ("INFO", 1e300, b"c"), ("INFO", float("nan"), b"d")]
    )
    times = [line.time_ms for line in feed.take()]
    assert times[:2] == [6_000, 6_000]
    assert times == sorted(times)
    assert times[-1] < 10**14


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
