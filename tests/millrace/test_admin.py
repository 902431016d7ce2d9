"""The operator's commands on limits and workspaces."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from millrace import vault
from millrace.cli import main

OURS = ("MILLRACE_", "S3_", "DATABASE_", "REDIS_")
Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command on a home of its own, where there is a workspace."""
    home = {"MILLRACE_HOME": str(tmp_path), "DATABASE_URL": f"sqlite:///{tmp_path}/m.db",
            "REDIS_URL": "redis://127.0.0.1:1/0", "S3_ENDPOINT": "http://127.0.0.1:1", "S3_ACCESS_KEY": "k",
            "S3_SECRET_KEY": "s", "MILLRACE_SECRET_KEYS": vault.new_master_key()}  # fmt: skip
    without: dict[str, str | None] = {name: None for name in os.environ if name.startswith(OURS)}

    def call(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main, arguments, env=without | home, input=stdin)

    assert call("workspaces", "create", "acme", "--email", "a@example.com").exit_code == 0
    return call


def table(done: Result) -> dict[str, str]:
    assert done.exit_code == 0, done.output
    return dict(line.split() for line in done.output.splitlines())


def test_limits_are_printed_and_set(command: Command) -> None:
    assert table(command("limits", "acme")) == {
        "max_concurrent_runs": "none", "runs_per_day": "none", "stored_mb": "none", "retention_days.runs": "90",
        "retention_days.logs": "30", "retention_days.events": "30", "retention_days.artifacts": "90",
        "retention_days.dead_letters": "30",
    }  # fmt: skip
    done = command("limits", "acme", "--set", "runs_per_day=1000", "--set", "retention_days.runs=none")
    assert table(done) == table(command("limits", "acme"))
    assert (table(done)["runs_per_day"], table(done)["retention_days.runs"]) == ("1000", "none")
    assert table(command("limits", "acme", "--set", "runs_per_day=none"))["runs_per_day"] == "none"


@pytest.mark.parametrize(("setting", "words"), [
    ("runs_per_day=0", "runs_per_day must be a whole number from 1 to"), ("runs_per_day=many", "runs_per_day must be"),
    ("runs_per_hour=1", "There is no limit 'runs_per_hour'"), ("retention_days=5", "retention_days must be"),
    ("runs_per_day", "--set takes NAME=VALUE"), ("runs_per_day=²", "runs_per_day must be"),
])
def test_a_wrong_limit_is_one_sentence_and_sets_nothing(command: Command, setting: str, words: str) -> None:
    before = table(command("limits", "acme"))
    done = command("limits", "acme", "--set", "stored_mb=5", "--set", setting)
    assert done.exit_code != 0 and words in done.stderr and "Traceback" not in done.output
    assert table(command("limits", "acme")) == before


def test_a_workspace_is_deleted_by_whoever_says_its_name_twice(command: Command) -> None:
    for given in ("other\n", ""):
        assert command("workspaces", "delete", "acme", stdin=given).exit_code != 0
        assert command("limits", "acme").exit_code == 0
    done = command("workspaces", "delete", "acme", stdin="acme\n")
    assert done.exit_code == 0 and "deleted acme" in done.output
    for again in (("limits", "acme"), ("keys", "create", "acme"), ("workspaces", "delete", "acme", "--yes")):
        done = command(*again)
        assert done.exit_code == 1 and "There is no workspace 'acme'." in done.stderr


def test_a_program_deletes_with_yes(command: Command) -> None:
    assert command("workspaces", "delete", "acme", "--yes").exit_code == 0
    assert command("limits", "acme").exit_code == 1


def test_who_did_what_is_printed_newest_last(command: Command) -> None:
    for number in (5, 6, 7):
        command("limits", "acme", "--set", f"stored_mb={number}")
    lines = command("audit", "acme", "--last", "2").output.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        f'operator limits.changed acme {{"stored_mb": {number}}}' for number in (6, 7)
    ]
    assert command("audit").output == ""


# People


def lines(done: Result) -> list[list[str]]:
    assert done.exit_code == 0, done.output
    return [line.split() for line in done.output.splitlines()]


def test_people_are_listed_with_their_roles(command: Command) -> None:
    assert lines(command("users", "list")) == [["a@example.com", "-"]]
    assert lines(command("users", "list", "acme")) == [["a@example.com", "org_admin"]]
    assert lines(command("users", "list", "nowhere")) == []


def test_who_is_invited_gets_a_link(command: Command) -> None:
    done = command("users", "invite", "acme", "B@example.com", "--role", "viewer")
    said = done.output.splitlines()
    assert said[0] == "b@example.com is a member of acme as viewer"
    assert re.fullmatch(r"http://127\.0\.0\.1:8080/invitations/[\w-]{43}", said[1]), done.output
    command("workspaces", "create", "other", "--email", "c@example.com")
    known = command("users", "invite", "acme", "c@example.com").output
    assert known.startswith("c@example.com can join acme as org_admin\n") and "/invitations/" in known
    waiting = command("users", "invite", "other", "b@example.com").output
    assert "can join other" in waiting and "/invitations/" in waiting
    assert lines(command("users", "list", "acme")) == [["a@example.com", "org_admin"], ["b@example.com", "viewer"]]


def test_a_forgotten_password_gets_a_link(command: Command) -> None:
    assert "/invitations/" in command("users", "reset", "A@example.com").output


def test_who_manages_every_workspace_is_said_by_the_operator(command: Command) -> None:
    assert command("users", "promote", "a@example.com").exit_code == 0
    assert lines(command("users", "list")) == [["a@example.com", "superadmin"]]
    assert command("users", "demote", "a@example.com").exit_code == 0
    assert lines(command("users", "list")) == [["a@example.com", "-"]]
    assert [line.split()[1:4] for line in command("audit").output.splitlines()] == [
        ["operator", "user.promoted", "a@example.com"], ["operator", "user.demoted", "a@example.com"],
    ]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), [
    (("invite", "acme", "nobody"), "An email has the form"), (("invite", "nowhere", "b@example.com"), "no workspace"),
    (("invite", "acme", "b@example.com", "--role", "king"), "no role 'king'"),
    (("invite", "acme", "a@example.com"), "is a member already"), (("reset", "b@example.com"), "no user"),
    (("promote", "b@example.com"), "no user"),
])  # fmt: skip
def test_what_cannot_be_done_with_people_is_one_sentence(
    command: Command, arguments: tuple[str, ...], words: str
) -> None:
    done = command("users", *arguments)
    assert done.exit_code == 1 and words in done.stderr and "Traceback" not in done.output


def test_a_workspace_for_who_is_known_tells_no_password(command: Command) -> None:
    done = command("workspaces", "create", "other", "--email", "a@example.com")
    assert done.exit_code == 0 and "password   the one that they have" in done.output
