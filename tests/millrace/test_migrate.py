"""`millrace migrate`: the schema alone, with no server but the database."""

import os
from pathlib import Path

import peewee
from click.testing import CliRunner, Result

import millrace.database
from millrace import migrations
from millrace.cli import main
from tests.services import PostgresServer

OURS = ("MILLRACE_", "S3_", "DATABASE_", "REDIS_")
NAMES = sorted(path.stem for path in Path(migrations.__file__).parent.glob("[0-9]*.py"))


def migrate(**environ: str) -> Result:
    """The command in this process, with no other setting than these."""
    without: dict[str, str | None] = {name: None for name in os.environ if name.startswith(OURS)}
    return CliRunner().invoke(main, ["migrate"], env=without | environ)


def pending(url: str) -> list[str]:
    database = millrace.database.connect(url)
    try:
        with database.connection_context():
            return migrations.pending(database)
    finally:
        database.close_all()  # type: ignore[attr-defined]  # a pool's method


def test_it_prints_what_it_applies_and_then_that_there_is_nothing_to_do(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    for url in (f"sqlite:///{tmp_path}/new folder/m.db", postgres_server.create("to_migrate")):
        first = migrate(DATABASE_URL=url)
        second = migrate(DATABASE_URL=url)

        assert (first.exit_code, first.output.split()) == (0, NAMES)
        assert (second.exit_code, second.output) == (0, "nothing to do\n")
        assert pending(url) == []


def test_without_a_setting_it_migrates_the_database_of_the_home(tmp_path: Path) -> None:
    done = migrate(MILLRACE_HOME=str(tmp_path / "a? #home%41"))

    assert (done.exit_code, done.output.split()) == (0, NAMES)
    assert (tmp_path / "a? #home%41" / "millrace.db").exists()


def test_a_wrong_setting_is_named_in_one_sentence() -> None:
    done = migrate(DATABASE_URL="mysql://root:pa55word@db/x")

    assert done.exit_code == 1
    assert done.output.startswith("Error: DATABASE_URL has the scheme 'mysql'") and done.output.count("\n") == 1
    assert "pa55word" not in done.output


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    done = migrate(DATABASE_URL="postgresql://me:pa55word@127.0.0.1:1/x")

    assert done.exit_code == 1
    assert "postgresql cannot be migrated" in done.output and "DATABASE_URL names it" in done.output
    assert "pa55word" not in done.output


def test_a_password_with_special_characters_is_taken_as_a_url_writes_it(postgres_server: PostgresServer) -> None:
    url = postgres_server.create("guarded")
    database = millrace.database.connect(url)
    with database.connection_context():
        database.execute_sql("CREATE ROLE \"o'd@d\" SUPERUSER LOGIN PASSWORD 'p@ss/w:rd#%%'")
    database.close_all()  # type: ignore[attr-defined]  # a pool's method

    address = url.partition("@")[2]
    assert migrate(DATABASE_URL=f"postgresql://o%27d%40d:p%40ss%2Fw%3Ard%23%25@{address}").exit_code == 0
    wrong = migrate(DATABASE_URL=f"postgresql://o%27d%40d:p%40ss@{address}")
    assert wrong.exit_code == 1 and "authentication failed" in wrong.output


def test_a_migration_that_cannot_be_applied_says_why(postgres_server: PostgresServer) -> None:
    url = postgres_server.create("occupied")
    database: peewee.Database = millrace.database.connect(url)
    with database.connection_context():
        database.execute_sql("CREATE TABLE workspace (id integer)")
    database.close_all()  # type: ignore[attr-defined]  # a pool's method

    done = migrate(DATABASE_URL=url)

    assert done.exit_code == 1 and "workspace" in done.output
    assert pending(url) == NAMES
