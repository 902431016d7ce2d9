"""Settings.from_env: defaults, what is refused and in which words, files, and what is never shown."""

import dataclasses
import os
from pathlib import Path

import pytest

from millrace.settings import SettingError, Settings

SECRET = "hunter2-hunter2"
SECRETS = {
    "DATABASE_URL": f"postgresql://me:{SECRET}@db:5432/millrace",
    "REDIS_URL": f"redis://:{SECRET}@cache:6379/0",
    "S3_ACCESS_KEY": f"access-{SECRET}",
    "S3_SECRET_KEY": SECRET,
    "MILLRACE_SECRET_KEYS": SECRET,
    "MILLRACE_OIDC_CLIENT_SECRET": SECRET,
}
OIDC = {
    "MILLRACE_OIDC_ISSUER": "https://id.example.com/realms/one", "MILLRACE_OIDC_CLIENT_ID": "millrace",
    "MILLRACE_OIDC_CLIENT_SECRET": "d", "MILLRACE_OIDC_NAME": "Our login",
}  # fmt: skip
FIELDS = {
    "MILLRACE_DATA_SOURCES": ("data_sources", "/srv/sources"),
    "MILLRACE_HOST": ("host", "10.0.0.1"), "MILLRACE_PORT": ("port", "9000"),
    "DATABASE_URL": ("database_url", "postgres://db/millrace"), "REDIS_URL": ("redis_url", "unix:///run/redis.sock"),
    "S3_ENDPOINT": ("s3_endpoint", "https://s3.example.com"), "S3_ACCESS_KEY": ("s3_access_key", "a"),
    "S3_SECRET_KEY": ("s3_secret_key", "b"), "S3_BUCKET": ("s3_bucket", "c"), "S3_REGION": ("s3_region", "eu-1"),
    "S3_PUBLIC_ENDPOINT": ("s3_public_endpoint", "https://files.example.com"),
    "MILLRACE_SECRET_KEYS": ("secret_keys", "k1,k2"), "MILLRACE_WORKER_PROCESSES": ("worker_processes", "256"),
    "MILLRACE_WORKER_THREADS": ("worker_threads", "1"), "MILLRACE_WEB_THREADS": ("web_threads", "4096"),
    "MILLRACE_SANDBOX_MODE": ("sandbox_mode", "permissive"), "MILLRACE_RUN_LOG_MB": ("run_log_mb", "1024"),
    "MILLRACE_LOG_LEVEL": ("log_level", "debug"), "MILLRACE_PUBLIC_URL": ("public_url", "https://example.com"),
    "MILLRACE_TRUSTED_PROXIES": ("trusted_proxies", "0"), "MILLRACE_METRICS_HOST": ("metrics_host", "::"),
    "MILLRACE_METRICS_PORT": ("metrics_port", "9464"),
    "MILLRACE_OIDC_ISSUER": ("oidc_issuer", "https://id.example.org"),
    "MILLRACE_OIDC_CLIENT_ID": ("oidc_client_id", "x"), "MILLRACE_OIDC_CLIENT_SECRET": ("oidc_client_secret", "y"),
    "MILLRACE_OIDC_NAME": ("oidc_name", "z"),
}  # fmt: skip


def refusal(**environ: str) -> str:
    with pytest.raises(SettingError) as caught:
        Settings.from_env(environ)
    return str(caught.value)


def test_an_empty_environment_means_this_machine_and_everything_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({})

    assert dataclasses.asdict(settings) == {
        "home": tmp_path / "var", "data_sources": tmp_path / "var" / "data-sources", "host": "127.0.0.1", "port": 8080,
        "database_url": f"sqlite:///{tmp_path}/var/millrace.db", "redis_url": "",
        "s3_endpoint": "", "s3_access_key": "", "s3_secret_key": "", "s3_bucket": "millrace", "s3_region": "us-east-1",
        "s3_public_endpoint": "", "secret_keys": "",
        "worker_processes": max(1, (os.cpu_count() or 1) // 2), "worker_threads": 8, "web_threads": 256,
        "sandbox_mode": "strict", "run_log_mb": 100, "log_level": "info", "public_url": "", "trusted_proxies": 0,
        "metrics_host": "127.0.0.1", "metrics_port": 0,
        "oidc_issuer": "", "oidc_client_id": "", "oidc_client_secret": "", "oidc_name": "",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_read_from_its_variable() -> None:
    settings = Settings.from_env({name: value for name, (_, value) in FIELDS.items()} | {"MILLRACE_HOME": "/srv/m"})

    assert settings.home == Path("/srv/m")
    assert {field.name for field in dataclasses.fields(settings)} == {"home", *(field for field, _ in FIELDS.values())}
    assert {field: str(getattr(settings, field)) for field, _ in FIELDS.values()} == dict(FIELDS.values())


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_PORT", "9123")

    assert Settings.from_env().port == 9123


@pytest.mark.parametrize("name", [*FIELDS, "MILLRACE_HOME"])
def test_what_is_empty_or_blank_means_the_default(name: str, tmp_path: Path) -> None:
    blank = tmp_path / "blank"
    blank.write_text(" \n")
    default = Settings.from_env({})

    assert Settings.from_env({name: ""}) == Settings.from_env({name: " \n"}) == default
    assert Settings.from_env({f"{name}_FILE": str(blank)}) == Settings.from_env({f"{name}_FILE": ""}) == default


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_may_stand_in_a_file_and_the_file_comes_first(name: str, tmp_path: Path) -> None:
    field, value = FIELDS[name]
    file = tmp_path / "value"
    file.write_text(f"  {value}\n")

    rest = {each: given for each, given in OIDC.items() if name in OIDC and each != name}  # they come together
    assert str(getattr(Settings.from_env({f"{name}_FILE": str(file), **rest}), field)) == value
    assert str(getattr(Settings.from_env({f"{name}_FILE": str(file), name: "7", **rest}), field)) == value


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named_and_its_content_is_not_shown(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)

    sentence = refusal(MILLRACE_SECRET_KEYS_FILE=str(file))

    assert sentence.startswith(f"MILLRACE_SECRET_KEYS_FILE names {str(file)!r}, which cannot be read")
    assert sentence.count("\n") == 0


@pytest.mark.parametrize(("name", "low", "high"), [
    ("MILLRACE_PORT", 1, 65535), ("MILLRACE_WORKER_PROCESSES", 1, 256), ("MILLRACE_WORKER_THREADS", 1, 256),
    ("MILLRACE_WEB_THREADS", 2, 4096), ("MILLRACE_RUN_LOG_MB", 1, 1024), ("MILLRACE_TRUSTED_PROXIES", 0, 10),
    ("MILLRACE_METRICS_PORT", 0, 65535),
])  # fmt: skip
def test_a_number_is_whole_and_in_its_range_or_refused_by_name_value_and_rule(name: str, low: int, high: int) -> None:
    field = FIELDS[name][0]
    for fine in (low, high):
        assert getattr(Settings.from_env({name: str(fine)}), field) == fine
    wrong = (str(low - 1), str(high + 1), "-1", "1.5", "1e3", "0x10", "two", "1 2", "٣", "1_0", "²", "9" * 5000,
             f"0000000000{high + 1}")  # fmt: skip
    for value in wrong:
        assert refusal(**{name: value}) == f"{name} is {value!r} but must be a whole number from {low} to {high}."


@pytest.mark.parametrize(("name", "rule"), [
    ("MILLRACE_SANDBOX_MODE", "strict, permissive"), ("MILLRACE_LOG_LEVEL", "debug, info, warning, error"),
])  # fmt: skip
def test_a_choice_is_one_of_its_options_or_refused_by_name_value_and_rule(name: str, rule: str) -> None:
    for value in ("off", "STRICT", "Info", "infos"):
        assert refusal(**{name: value}) == f"{name} is {value!r} but must be one of: {rule}."


@pytest.mark.parametrize(("name", "rule"), [
    ("DATABASE_URL", "sqlite://, postgresql://, postgres://"), ("REDIS_URL", "redis://, rediss://, unix://"),
    ("S3_ENDPOINT", "http://, https://"), ("S3_PUBLIC_ENDPOINT", "http://, https://"),
    ("MILLRACE_PUBLIC_URL", "http://, https://"),
])  # fmt: skip
def test_a_url_has_one_of_the_schemes_or_is_refused_without_repeating_what_may_be_a_password(
    name: str, rule: str
) -> None:
    found = {
        f"amqp://me:{SECRET}@host": "has the scheme 'amqp'", f"HTTPS://me:{SECRET}@host": "has no scheme",
        f"me:{SECRET}@host/x": "has no scheme", f"redis:{SECRET}": "has no scheme", "localhost": "has no scheme",
    }  # fmt: skip
    for value, words in found.items():
        assert refusal(**{name: value}) == f"{name} {words} but must start with one of: {rule}."


@pytest.mark.parametrize("address", [
    f"me:{SECRET}@host:port", f"me:{SECRET}@host:99999", f"me:{SECRET}#1@host", f"me:{SECRET}/@host", f"[{SECRET}",
])  # fmt: skip
def test_a_url_whose_host_and_port_cannot_be_read_is_refused_without_its_password(address: str) -> None:
    for name, scheme in (("DATABASE_URL", "postgresql"), ("REDIS_URL", "redis"), ("S3_ENDPOINT", "http")):
        sentence = refusal(**{name: f"{scheme}://{address}"})
        assert sentence.startswith(f"{name} must be a URL whose host and port can be read")
        assert SECRET not in sentence


@pytest.mark.parametrize("value", ["sqlite://", "sqlite:///", "sqlite://file.db", "sqlite:////", "sqlite:///folder/"])
def test_a_sqlite_url_names_a_file(value: str) -> None:
    assert refusal(DATABASE_URL=value) == (
        f"DATABASE_URL is {value!r} but must name a file: sqlite:///relative or sqlite:////absolute."
    )


@pytest.mark.parametrize("value", ["postgresql://", f"postgresql://me:{SECRET}@db:5432", "postgres://db/", "postgres:///"])
def test_a_postgresql_url_names_a_database_and_the_refusal_does_not_show_its_password(value: str) -> None:
    assert refusal(DATABASE_URL=value) == (
        "DATABASE_URL must name a database, as in postgresql://user:password@host:5432/name."
    )


def test_an_option_of_a_redis_url_that_cannot_be_read_is_refused_without_the_password() -> None:
    sentence = refusal(REDIS_URL=f"redis://:{SECRET}@cache:6379/?socket_timeout=long")

    assert sentence.startswith("REDIS_URL has an option that cannot be read") and "socket_timeout" in sentence
    assert SECRET not in sentence


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    settings = Settings.from_env(OIDC | SECRETS)

    assert SECRET not in repr(settings) and SECRET not in str(settings)
    assert "8080" in repr(settings)
    for name in SECRETS:
        assert SECRET in getattr(settings, FIELDS[name][0])


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.from_env({}).port = 1  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize(("environ", "url"), [
    ({}, "http://127.0.0.1:8080"), ({"MILLRACE_HOST": "0.0.0.0", "MILLRACE_PORT": "80"}, "http://127.0.0.1:80"),
    ({"MILLRACE_HOST": "::"}, "http://127.0.0.1:8080"), ({"MILLRACE_HOST": "::1"}, "http://[::1]:8080"),
    ({"MILLRACE_HOST": "example.com"}, "http://example.com:8080"),
    ({"MILLRACE_PUBLIC_URL": "https://example.com/millrace/"}, "https://example.com/millrace"),
])  # fmt: skip
def test_people_reach_web_at_the_public_url_or_at_host_and_port(environ: dict[str, str], url: str) -> None:
    assert Settings.from_env(environ).url == url


# Single sign-on


def test_single_sign_on_is_named_by_its_host_unless_it_has_a_name() -> None:
    settings = Settings.from_env(OIDC)
    assert (settings.oidc_issuer, settings.oidc_client_id) == ("https://id.example.com/realms/one", "millrace")
    assert (settings.oidc_client_secret, settings.oidc_name) == ("d", "Our login")
    assert Settings.from_env(OIDC | {"MILLRACE_OIDC_NAME": ""}).oidc_name == "id.example.com"


@pytest.mark.parametrize("missing", ["MILLRACE_OIDC_ISSUER", "MILLRACE_OIDC_CLIENT_ID", "MILLRACE_OIDC_CLIENT_SECRET"])
def test_half_of_single_sign_on_is_refused(missing: str) -> None:
    assert refusal(**(OIDC | {missing: ""})) == (
        f"{missing} is not set: single sign-on needs MILLRACE_OIDC_ISSUER, MILLRACE_OIDC_CLIENT_ID, "
        "MILLRACE_OIDC_CLIENT_SECRET."
    )


@pytest.mark.parametrize(("issuer", "words"), [
    ("http://id.example.com", "must start with https://, unless"), ("ftp://id.example.com", "must start with one of"),
    ("id.example.com", "has no scheme"), ("https://id.example.com?a=b", "no query"), ("https://a/#b", "no query"),
])  # fmt: skip
def test_an_issuer_is_reached_safely_or_refused(issuer: str, words: str) -> None:
    sentence = refusal(**(OIDC | {"MILLRACE_OIDC_ISSUER": issuer}))
    assert words in sentence and sentence.startswith("MILLRACE_OIDC_ISSUER")


@pytest.mark.parametrize("issuer", ["http://localhost:8081", "http://127.0.0.1:8081", "http://[::1]:8081"])
def test_an_issuer_on_this_machine_may_do_without_https(issuer: str) -> None:
    assert Settings.from_env(OIDC | {"MILLRACE_OIDC_ISSUER": issuer}).oidc_issuer == issuer
