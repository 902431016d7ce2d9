"""millrace events publish"""

import click

from millrace.cli.client import Client
from millrace.cli.runs import read_payload


@click.group()
def events() -> None:
    """Publish events on the workspace's bus."""


@events.command("publish")
@click.argument("name")
@click.argument("data", default="{}")
@click.option("--source", help="Who says so.")
@click.option("--subject", help="What it is about.")
def publish(name: str, data: str, source: str | None, subject: str | None) -> None:
    """Publish an event and print its id. DATA is JSON, @FILE, or - for standard input."""
    body = {"name": name, "data": read_payload(data), "source": source, "subject": subject}
    given = {key: value for key, value in body.items() if value is not None or key == "data"}
    click.echo(Client.from_environment().call("POST", "/events", json=given)["event_id"])
