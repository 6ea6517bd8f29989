"""The command group `secrets`, which changes the key that seals the upstream credentials."""

import click

from gproxy.accounting.slots import count_running
from gproxy.cli.context import CommandContext, report_errors
from gproxy.errors import StartupError
from gproxy.store import machines, seeding

NEW = "DATABASE_SECRET_KEY_NEW"


@click.group()
def secrets() -> None:
    """The sealing of the upstream credentials in the database."""


@secrets.command()
def rotate() -> None:
    """Seal all credentials with DATABASE_SECRET_KEY_NEW instead of DATABASE_SECRET_KEY.

    Stop every gateway before, and start it with the new key afterwards. Also seals a database that is not sealed yet.
    """
    with report_errors():
        context = CommandContext("secrets rotate")
        new_key = context.settings.environ.get(NEW, "").strip()
        if not new_key:
            raise StartupError([f"{NEW}: set it to the new key"])
        workers = count_running(context.settings.data_dir / "journal")
        others = context.ask(machines.count_others, context.settings.data_dir)
        if workers or others:
            raise StartupError(
                [
                    f"{workers} workers here and {others} other machines work on this database; "
                    "stop them, and start them with the new key"
                ]
            )
        count = context.database.run(seeding.reseal, context.database, context.seal, new_key)
    click.echo(f"{count} credentials are sealed with {NEW}; start the gateways with it as DATABASE_SECRET_KEY")
