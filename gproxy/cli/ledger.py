"""The command group `ledger`, which checks the accounts of users and keys. It does not change the database."""

import sys

import click

from gproxy.cli.context import open_database, report_errors
from gproxy.store import ledger as ledger_queries
from gproxy.store import ledger_check
from gproxy.store.database import Database
from gproxy.store.ledger_check import Difference, LedgerReport
from gproxy.units import usd_text

DIFFERENT = 1


@click.group()
def ledger() -> None:
    """What users and keys have spent."""


@ledger.command()
def verify() -> None:
    """Compare every account with its usage rows and adjustments.

    Exit status: 1 if an account differs, 2 if the database cannot be used.
    """
    with report_errors():
        database = open_database()
        report: LedgerReport = database.run(ledger_check.verify)
        differences = [f"{one}; to take over the rows: {_remedy(database, one)}" for one in report.differences]
    click.echo("\n".join(differences or [f"{report.accounts} accounts are exact"]))
    sys.exit(DIFFERENT if differences else 0)


def _remedy(database: Database, one: Difference) -> str:
    """Returns the admin call that sets the account to the total of its rows."""
    number = int(one.account[1:])
    if one.account.startswith("k"):
        return f'POST /admin/user-keys/update {{"id": {number}, "cost_used": {usd_text(one.expected)}}}'
    account = database.run(ledger_queries.account, number)
    quota = "null" if account is None or account.cap is None else usd_text(account.cap)
    body = f'{{"user_id": {number}, "quota": {quota}, "cost_used": {usd_text(one.expected)}}}'
    return f"POST /admin/user-quotas/upsert {body}"
