"""The sandbox's settings: defaults, files, and what is refused in which words."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.config import EGRESS_LIMITS, ConfigError, SandboxConfig

READ: dict[str, tuple[str, Callable[[SandboxConfig], object], object]] = {
    "MILLRACE_HOME": ("/srv/m", lambda config: config.home, Path("/srv/m")),
    "MILLRACE_SANDBOX_MODE": ("permissive", lambda config: config.mode, "permissive"),
    "MILLRACE_WARM_JAILS": ("7", lambda config: config.warm_jails, 7),
    "MILLRACE_EGRESS_ALLOW": (" a:1 ,, 10.0.0.0/8,", lambda config: config.egress_allow, ("a:1", "10.0.0.0/8")),
    "MILLRACE_EGRESS_CONNECTIONS": ("1", lambda config: config.egress_limits.connections, 1),
    "MILLRACE_EGRESS_RATE": ("0", lambda config: config.egress_limits.rate, 0),
    "MILLRACE_EGRESS_MB_PER_HOUR": ("20000", lambda config: config.egress_limits.mb_per_hour, 20_000),
}


def test_an_empty_environment_means_a_strict_sandbox_below_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = SandboxConfig.from_env({})

    assert config == SandboxConfig(tmp_path / "var", "strict", max(2, 2 * len(os.sched_getaffinity(0))), ())
    assert config.egress_limits == EGRESS_LIMITS
    assert 0 not in EGRESS_LIMITS.as_json().values()
    assert config.socket_path == tmp_path / "var" / "run" / "launcher.sock"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", READ)
def test_every_setting_may_stand_in_a_file_and_the_file_comes_first(name: str, tmp_path: Path) -> None:
    text, field, value = READ[name]
    file = tmp_path / "value"
    file.write_text(f" {text}\n")

    assert field(SandboxConfig.from_env({name: f" {text} "})) == value
    assert field(SandboxConfig.from_env({f"{name}_FILE": str(file)})) == value
    assert field(SandboxConfig.from_env({f"{name}_FILE": str(file), name: "strict"})) == value


@pytest.mark.parametrize("name", READ)
def test_what_is_empty_or_blank_means_the_default(name: str, tmp_path: Path) -> None:
    blank = tmp_path / "blank"
    blank.write_text("\n \n")
    default = SandboxConfig.from_env({})

    for environ in ({name: ""}, {name: " \n"}, {f"{name}_FILE": str(blank)}, {f"{name}_FILE": ""}):
        assert SandboxConfig.from_env(environ) == default


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
@pytest.mark.parametrize("name", READ)
def test_a_file_that_cannot_be_read_is_named(name: str, content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "value"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=f"^{name}_FILE names '{file}', which cannot be read"):
        SandboxConfig.from_env({f"{name}_FILE": str(file)})


@pytest.mark.parametrize("value", ["off", "Strict", "strict,permissive", "\ud800"])
def test_a_mode_is_strict_or_permissive(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SandboxConfig.from_env({"MILLRACE_SANDBOX_MODE": value})

    assert str(caught.value) == f"MILLRACE_SANDBOX_MODE is {value!r}, but must be strict or permissive"


MOST = {
    "MILLRACE_WARM_JAILS": 1_000,
    "MILLRACE_EGRESS_CONNECTIONS": 1_000_000,
    "MILLRACE_EGRESS_RATE": 1_000_000,
    "MILLRACE_EGRESS_MB_PER_HOUR": 100_000_000,
}


@pytest.mark.parametrize("name", MOST)
@pytest.mark.parametrize("value", ["-1", "+1", "1.5", "1 0", "1_0", "²", "many", "9" * 5000, None])
def test_a_number_is_whole_and_within_its_range(name: str, value: str | None) -> None:
    wrong = value or str(MOST[name] + 1)
    with pytest.raises(ConfigError) as caught:
        SandboxConfig.from_env({name: wrong})

    assert str(caught.value) == f"{name} is {wrong!r}, but must be a whole number from 0 to {MOST[name]}"


@pytest.mark.parametrize("name", MOST)
def test_nothing_and_the_most_are_fine(name: str) -> None:
    _, field, _ = READ[name]
    for value in (0, MOST[name]):
        assert field(SandboxConfig.from_env({name: str(value)})) == value


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("10.0.0.0/33", "'10.0.0.0/33'"),
        ("db:5432, 10.0.0.1/8", "'10.0.0.1/8'"),
        ("db:0", "'db:0'"),
        ("a b", "'a b'"),
        ("http://db", "'http://db'"),
        ("\ud800", "'\\ud800'"),
    ],
)
def test_a_wrong_exemption_is_named_at_the_start(value: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SandboxConfig.from_env({"MILLRACE_EGRESS_ALLOW": value})

    assert str(caught.value).startswith(f"MILLRACE_EGRESS_ALLOW has a wrong part, {wrong}: ")
