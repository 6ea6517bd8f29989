"""What administrators do in one process: queries and changes of the store, export and import of the configuration."""

import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from gproxy import bootstrap
from gproxy.channels.kind import Kind
from gproxy.errors import BadRequest, StartupError
from gproxy.state.change_counter import ChangeCounter
from gproxy.state.interface import SharedState
from gproxy.store import accounts, exporting, importing, seeding
from gproxy.store.audit import Actor, run_audited
from gproxy.store.database import Database
from gproxy.store.importing import Change
from gproxy.store.sealing import Seal
from gproxy.threads import Threads

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ConfigurationReader:
    """Reads a configuration in TOML as a start of this process would."""

    environ: Mapping[str, str]
    kinds: Mapping[str, Kind]

    def read(self, text: str, reserved: frozenset[str]) -> seeding.Content:
        """Returns the content. `reserved` are names that no provider may have. Raises BadRequest."""
        try:
            document = tomllib.loads(text, parse_float=Decimal)
            return bootstrap.read(document, "toml", self.environ, self.kinds, reserved)
        except (ValueError, RecursionError) as fault:
            raise BadRequest(f"toml: not readable: {fault}") from None
        except StartupError as fault:
            raise BadRequest("; ".join(fault.problems)) from None


@dataclass(frozen=True, slots=True)
class AdminOps:
    """Everything runs in native threads, so that a slow query delays no call."""

    database: Database
    seal: Seal | None
    shared: SharedState
    change_counter: ChangeCounter
    reader: ConfigurationReader
    threads: Threads  # for queries, which may be slow: nothing that must be prompt waits for them
    changing_threads: Threads = field(default_factory=lambda: Threads(2))  # for changes
    passwords: Threads = field(default_factory=lambda: Threads(1))  # a single thread: hashing a password takes 20 MB

    def ask(self, query: Callable[..., _Result], *args) -> _Result:
        """Returns the result of a query of the store. Raises Unavailable, BadRequest."""
        return self.threads.run(self.database.run_for_caller, query, *args)

    def change(self, actor: Actor | None, function: Callable[..., _Result], *args) -> _Result:
        """Runs a changing function of the store, and announces the change to all workers before it returns.

        With an actor the change is written to the audit log. Raises Unavailable, and what the function raises.
        """
        result = self._run_change(actor, function, *args)
        self.change_counter.increment()
        return result

    def change_account(self, actor: Actor, function: Callable[..., _Result], account: str, *args) -> _Result:
        """Like `change`, for a function that changes an account's cap or used amount: the account is loaded again."""
        result = self._run_change(actor, function, *args)
        self.shared.forget(account)
        self.change_counter.increment()
        return result

    def export(self) -> seeding.Content:
        """Returns the configuration with its secrets. Raises Unavailable."""
        return self.ask(exporting.content, self.seal)

    def apply_import(
        self, actor: Actor, text: str, reserved: frozenset[str], prunes: bool, is_dry: bool
    ) -> list[Change]:
        """Imports a configuration in TOML and returns the changes. Raises BadRequest, Unavailable.

        `prunes`: rows that the text does not contain are deleted. `is_dry`: nothing is changed.
        """
        content = self.threads.run(self.reader.read, text, reserved)
        changes = self._run_change(
            None if is_dry else actor, importing.apply_import, content, self.seal, prunes, is_dry
        )
        if changes and not is_dry:
            for row in self.ask(accounts.list_accounts, {}, time.time_ns()):
                self.shared.forget(f"u{row[0]}")
            self.change_counter.increment()
        return changes

    def _run_change(self, actor: Actor | None, function: Callable[..., _Result], *args) -> _Result:
        if actor is None:
            return self.changing_threads.run(self.database.run_for_caller, function, self.database, *args)
        return self.changing_threads.run(
            self.database.run_for_caller, run_audited, self.database, actor, self.seal, function, *args
        )
