"""millrace users: people and their places, for the operator."""

import click

from millrace import members, roles, users
from millrace.cli.admin import operator
from millrace.cli.terminal import shown
from millrace.services import Services


@click.group("users")
def users_group() -> None:
    """List and invite people, and say who manages the whole platform."""


@users_group.command("list")
@click.argument("workspace", required=False)
def list_command(workspace: str | None) -> None:
    """Print all users, or a workspace's members, with their roles."""
    with operator():
        if workspace is None:
            lines = [(user.email, user.role or "-") for user in users.everybody()]
        else:
            lines = [(member.user.email, member.role) for member in members.of(workspace)]
    for email, role in lines:
        click.echo(shown(f"{email:<40} {role}"))


@users_group.command("invite")
@click.argument("workspace")
@click.argument("email")
@click.option("--role", default=roles.ORG_ADMIN, show_default=True, help="One of the workspace's roles.")
def invite(workspace: str, email: str, role: str) -> None:
    """Make somebody a member, or invite who has a user already. Their link is printed once.

    Who is new chooses a password with it; who is known signs in and joins.
    """
    with operator() as services:
        invited = members.invite(services, workspace, email, role, roles.OPERATOR)
        done = "can join" if invited.member is None else "is a member of"
        click.echo(shown(f"{invited.user.email} {done} {workspace} as {role}"))
        click.echo(f"{link(services, invited.token)}\nIt is good once, for seven days.")


@users_group.command("reset")
@click.argument("email")
def reset(email: str) -> None:
    """Print a link with which a user chooses another password. It is shown once."""
    with operator() as services:
        token = members.reset_any(services, email, roles.OPERATOR)
        click.echo(f"{link(services, token)}\nIt is good once, for a day.")


@users_group.command("promote")
@click.argument("email")
def promote(email: str) -> None:
    """Let a user manage every workspace (Superadmin)."""
    with operator() as services:
        users.promote(services, email, roles.OPERATOR)
    click.echo(shown(f"{email} manages every workspace"))


@users_group.command("demote")
@click.argument("email")
def demote(email: str) -> None:
    """End that; their places in workspaces stay."""
    with operator() as services:
        users.demote(services, email, roles.OPERATOR)
    click.echo(shown(f"{email} manages no workspace but by their places"))


def link(services: Services, token: str) -> str:
    """The address of the page where the token is used."""
    return f"{services.settings.url}/invitations/{token}"
