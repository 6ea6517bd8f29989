"""What users and keys have spent. Changes no database."""

import sys

import click

from gproxy.cli.opening import database, explained
from gproxy.store import ledger, ledger_check
from gproxy.store.database import Database
from gproxy.store.ledger_check import Difference, LedgerReport
from gproxy.units import usd_text

DIFFERENT = 1


@click.group("ledger")
def books() -> None:
    """What users and keys have spent."""


@books.command()
def verify() -> None:
    """Hold every account against its usage rows and adjustments.

    Ends with status 1 when one differs, with 2 when the database cannot be asked.
    """
    with explained():
        opened = database()
        found: LedgerReport = opened.run(ledger_check.verify)
        differences = [f"{one}; to take over the rows: {_remedy(opened, one)}" for one in found.differences]
    click.echo("\n".join(differences or [f"{found.accounts} accounts are exact"]))
    sys.exit(DIFFERENT if differences else 0)


def _remedy(opened: Database, one: Difference) -> str:
    """The call that makes the account say what the rows say."""
    number = int(one.account[1:])
    if one.account.startswith("k"):
        return f'POST /admin/user-keys/update {{"id": {number}, "cost_used": {usd_text(one.expected)}}}'
    cap = opened.run(ledger.account, number).cap
    quota = "null" if cap is None else usd_text(cap)
    body = f'{{"user_id": {number}, "quota": {quota}, "cost_used": {usd_text(one.expected)}}}'
    return f"POST /admin/user-quotas/upsert {body}"
