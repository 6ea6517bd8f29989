"""The seal over upstreams' keys."""

import click

from gproxy.accounting.slots import count_running
from gproxy.cli.opening import Opened, explained
from gproxy.errors import StartupError
from gproxy.store import machines, seeding

NEW = "DATABASE_SECRET_KEY_NEW"


@click.group()
def secrets() -> None:
    """The seal over upstreams' keys."""


@secrets.command()
def rotate() -> None:
    """Seal everything anew, from DATABASE_SECRET_KEY to DATABASE_SECRET_KEY_NEW.

    Stop every gateway before, and start it with the new key afterwards. Without a seal so far, the database is sealed.
    """
    with explained():
        opened = Opened("secrets rotate")
        fresh = opened.settings.environ.get(NEW, "").strip()
        if not fresh:
            raise StartupError([f"{NEW}: set it to the key that shall seal from now on"])
        here, elsewhere = (
            count_running(opened.settings.data_dir / "journal"),
            opened.ask(machines.others, opened.settings.data_dir),
        )
        if here or elsewhere:
            told = f"{here} workers here and {elsewhere} other machines work on this database"
            raise StartupError([f"{told}; stop them, and start them with the new key"])
        count = opened.database.run(seeding.reseal, opened.database, opened.seal, fresh)
    click.echo(f"{count} credentials are sealed with {NEW}; start the gateways with it as DATABASE_SECRET_KEY")
