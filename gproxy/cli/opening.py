"""The database that the settings name, opened for a command; and how a command ends that cannot go on."""

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from gproxy import settings
from gproxy.errors import GatewayError, StartupError, Unavailable
from gproxy.settings import Settings
from gproxy.state.change_counter import ChangeCounter
from gproxy.store import seeding
from gproxy.store.audit import Actor, audited
from gproxy.store.database import Database
from gproxy.store.sealing import Seal

UNUSABLE = 2


@contextmanager
def explained() -> Iterator[None]:
    """A fault of the operator's surroundings ends the command with one line for each problem and status 2."""
    try:
        yield
    except StartupError as fault:
        click.echo("\n".join(fault.problems), err=True)
        sys.exit(UNUSABLE)
    except Unavailable as fault:
        click.echo(f"GPROXY_DSN: the database cannot be used: {_reason(fault.__cause__)}", err=True)
        sys.exit(UNUSABLE)
    except GatewayError as fault:
        click.echo(fault.message, err=True)
        sys.exit(1)


def database(found: Settings | None = None) -> Database:
    """The database of the settings, as it is. Raises StartupError, Unavailable."""
    found = found or settings.load()
    opened = Database(found.dsn, found.data_dir)
    if opened.path is not None and not opened.path.is_file():
        remedy = "start the gateway once, or name the right one in GPROXY_DSN or GPROXY_DATA_DIR"
        raise StartupError([f"GPROXY_DSN: there is no database {opened.path}; {remedy}"])
    if missing := ", ".join(opened.run(opened.pending)):
        raise StartupError([f"GPROXY_DSN: the database lacks {missing}; start the gateway once to migrate it"])
    return opened


class Opened:
    """A filled database with its seal. Its changes are noted, and in force in a running gateway at once."""

    def __init__(self, command: str):
        self.settings = settings.load()
        self.database = database(self.settings)
        self.seal: Seal | None = self.database.run(seeding.seal_of, self.settings.secret_key)
        self._actor = Actor(None, f"command line: {_user()}", None, None, None, command)

    def ask(self, question: Callable, *args):
        return self.database.run(question, *args)

    def change(self, function: Callable, *args):
        result = self.database.run(audited, self.database, self._actor, self.seal, function, *args)
        change_counter(self.settings)
        return result


def change_counter(found: Settings) -> None:
    """Tells the workers of this machine that the database changed; other machines look twice a second."""
    one = ChangeCounter(found.data_dir / "signal")
    one.increment()
    one.close()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as nobody it knows
        return "unknown"


def _reason(fault: BaseException | None) -> str:
    """The first line of a driver's complaint, which holds the address and never the password."""
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0] if lines else 'no reason given'}"
