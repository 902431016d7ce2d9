"""The `millrace` command: a start for the operator, a client for whoever writes scripts."""

import importlib

import click

_COMMANDS = {
    "up": "millrace.cli.up:up",
    "migrate": "millrace.cli.migrate:migrate",
    "check": "millrace.cli.check:check",
    "scripts": "millrace.cli.scripts:scripts",
    "run": "millrace.cli.runs:run",
    "runs": "millrace.cli.runs:runs",
    "logs": "millrace.cli.runs:logs",
    "cancel": "millrace.cli.runs:cancel",
    "events": "millrace.cli.events:events",
    "workspaces": "millrace.cli.admin:workspaces_group",
    "users": "millrace.cli.users:users_group",
    "limits": "millrace.cli.admin:limits_command",
    "audit": "millrace.cli.admin:audit_command",
    "keys": "millrace.cli.admin:keys",
}


class _Lazy(click.Group):
    """Loads a command's module when it is asked for: a client's command needs none of the server's libraries."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="millrace", prog_name="millrace")
def main() -> None:
    """Run scripts on Millrace.

    Commands that talk to a server find it by MILLRACE_URL, MILLRACE_WORKSPACE and MILLRACE_API_KEY, else by the
    credentials.json that `millrace up` wrote into MILLRACE_HOME.
    """
