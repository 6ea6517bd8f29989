"""What the commands share: the open database with its seal, and the report of errors with an exit status."""

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click

from gproxy import settings
from gproxy.errors import GatewayError, StartupError, Unavailable
from gproxy.settings import Settings
from gproxy.state.change_counter import ChangeCounter
from gproxy.store import seeding
from gproxy.store.audit import Actor, run_audited
from gproxy.store.database import Database
from gproxy.store.sealing import Seal

UNUSABLE = 2
_Result = TypeVar("_Result")


@contextmanager
def report_errors() -> Iterator[None]:
    """Ends the command if an error occurs: status 2 if settings or database cannot be used, 1 if the change is refused.

    The problems are written to standard error, one line each.
    """
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


def open_database(loaded: Settings | None = None) -> Database:
    """Returns the database that the settings name. It is neither created nor migrated.

    Raises StartupError, Unavailable.
    """
    loaded = loaded or settings.load()
    database = Database(loaded.dsn, loaded.data_dir)
    if database.path is not None and not database.path.is_file():
        remedy = "start the gateway once, or name the right one in GPROXY_DSN or GPROXY_DATA_DIR"
        raise StartupError([f"GPROXY_DSN: there is no database {database.path}; {remedy}"])
    if missing := ", ".join(database.run(database.pending_migrations)):
        raise StartupError([f"GPROXY_DSN: the database lacks {missing}; start the gateway once to migrate it"])
    return database


class CommandContext:
    """Settings, database and seal of one command. The audit log records the command's changes.

    A gateway that runs on this machine applies a change at once, gateways on other machines within a second.
    """

    def __init__(self, command: str):
        self.settings = settings.load()
        self.database = open_database(self.settings)
        self.seal: Seal | None = self.database.run(seeding.load_seal, self.settings.secret_key)
        self._actor = Actor(None, f"command line: {_user()}", None, None, None, command)

    def ask(self, question: Callable[..., _Result], *args) -> _Result:
        """Returns the result of a store function that only reads."""
        return self.database.run(question, *args)

    def change(self, function: Callable[..., _Result], *args) -> _Result:
        """Runs a store function that changes the database, and returns its result."""
        result = self.database.run(run_audited, self.database, self._actor, self.seal, function, *args)
        announce_change(self.settings)
        return result


def announce_change(loaded: Settings) -> None:
    """Makes the workers of this machine reload. Other machines poll the database twice a second."""
    counter = ChangeCounter(loaded.data_dir / "signal")
    counter.increment()
    counter.close()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a user id without a name
        return "unknown"


def _reason(fault: BaseException | None) -> str:
    """Returns the first line of the driver's error, which contains the address but no password."""
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0] if lines else 'no reason given'}"
