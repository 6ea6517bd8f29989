"""Commands of an operator, `flask --app wsgi …`. They find settings as the server does, and change no database."""

import sys

import click

from gproxy import settings
from gproxy.errors import StartupError, Unavailable
from gproxy.store import ledger, proof
from gproxy.store.database import Database
from gproxy.store.proof import Difference, Proof
from gproxy.units import usd_text

DIFFERENT, UNUSABLE = 1, 2


@click.group("ledger")
def books() -> None:
    """What users and keys have spent."""


@books.command()
def verify() -> None:
    """Hold every account against its usage rows and adjustments.

    Ends with status 1 when one differs, with 2 when the database cannot be asked.
    """
    try:
        database = _database()
        found: Proof = database.run(proof.verify)
        differences = [f"{one}; to take over the rows: {_remedy(database, one)}" for one in found.differences]
    except StartupError as fault:
        click.echo("\n".join(fault.problems), err=True)
        sys.exit(UNUSABLE)
    except Unavailable as fault:
        click.echo(f"GPROXY_DSN: the database cannot be used: {_reason(fault.__cause__)}", err=True)
        sys.exit(UNUSABLE)
    click.echo("\n".join(differences or [f"{found.accounts} accounts are exact"]))
    sys.exit(DIFFERENT if differences else 0)


def _database() -> Database:
    """The database of the settings, as it is. Raises StartupError, Unavailable."""
    found = settings.load()
    database = Database(found.dsn, found.data_dir)
    if database.path is not None and not database.path.is_file():
        remedy = "start the gateway once, or name the right one in GPROXY_DSN or GPROXY_DATA_DIR"
        raise StartupError([f"GPROXY_DSN: there is no database {database.path}; {remedy}"])
    if missing := ", ".join(database.run(database.pending)):
        raise StartupError([f"GPROXY_DSN: the database lacks {missing}; start the gateway once to migrate it"])
    return database


def _reason(fault: BaseException | None) -> str:
    """The first line of a driver's complaint, which holds the address and never the password."""
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0] if lines else 'no reason given'}"


def _remedy(database: Database, one: Difference) -> str:
    """The call that makes the account say what the rows say."""
    number = int(one.account[1:])
    if one.account.startswith("k"):
        return f'POST /admin/user-keys/update {{"id": {number}, "cost_used": {usd_text(one.expected)}}}'
    cap = database.run(ledger.account, number).cap
    quota = "null" if cap is None else usd_text(cap)
    body = f'{{"user_id": {number}, "quota": {quota}, "cost_used": {usd_text(one.expected)}}}'
    return f"POST /admin/user-quotas/upsert {body}"
