"""Starts and closes one process: store, state, snapshot, journal and relay. Used by workers and by test fixtures."""

import logging
import ssl
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from types import ModuleType

import certifi
import gevent

from gproxy import __version__, bootstrap, channels, protocols
from gproxy.accounting import prices, slots
from gproxy.accounting.journal import Ids, Journal
from gproxy.accounting.ledger_check import LedgerChecker
from gproxy.accounting.retention import Retention
from gproxy.accounting.state_loader import StateLoader
from gproxy.accounting.writer import Writer
from gproxy.admission import keys
from gproxy.admission.capacity import Capacity
from gproxy.channels.kind import Kind
from gproxy.credentials.access_tokens import AccessTokens
from gproxy.credentials.pool import Pool, expires
from gproxy.errors import BadRequest, GatewayError, StartupError, Unavailable
from gproxy.fastpath import collector
from gproxy.metrics import call_metrics, definitions, exposition
from gproxy.metrics.call_metrics import CallMetrics
from gproxy.metrics.mmap_values import MmapValues
from gproxy.quota import budgets, limits
from gproxy.quota.reservations import Reserver
from gproxy.relay.attempt import Attempts
from gproxy.relay.model_list import ModelList
from gproxy.relay.pipeline import Relay
from gproxy.relay.planner import Planner
from gproxy.relay.reserve import CallOpener
from gproxy.relay.respond import Answers
from gproxy.relay.running_calls import RunningCalls
from gproxy.request_log.recorder import Recorder
from gproxy.request_log.spool import Mover, Spool
from gproxy.settings import PUBLISHED_KEY, Settings, is_loopback
from gproxy.settings import secrets as secrets_of
from gproxy.snapshot import Snapshot
from gproxy.snapshots import Snapshots
from gproxy.state.change_counter import ChangeCounter
from gproxy.state.interface import SharedState
from gproxy.state.mmap.state import MmapState
from gproxy.state.shared_dict import SharedDict
from gproxy.state.ttl_store import TtlStore
from gproxy.store import (
    accounts,
    exporting,
    importing,
    ledger,
    ledger_check,
    limit_replay,
    machines,
    request_logs,
    seeding,
    usages,
    users,
)
from gproxy.store.audit import Actor, run_audited
from gproxy.store.database import Database, prepare_folders
from gproxy.store.sealing import Seal
from gproxy.threads import Threads
from gproxy.upstream.client import Client
from gproxy.upstream.images import ImageFetcher

log = logging.getLogger(__name__)

POLL_S = 0.5
LEDGER_CHECK_S, RETENTION_S = 60.0, 60.0
RENEW_S = 5.0  # much shorter than the lease of this process's reservations in Redis


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the master prepares once for all workers."""

    machine: int
    seal: Seal | None
    deployment: str  # the name of the database if several share one Redis


def prepare(settings: Settings, fill: Callable[[Database], None]) -> Prepared:
    """Migrates the database and fills an empty one, once even if several processes start. Raises StartupError."""
    database = Database(settings.dsn, settings.data_dir)
    prepare_folders(settings.data_dir, database.path)
    try:
        with database.start_lock():
            for name in database.migrate():
                log.info("applied migration %s", name)
            if seeding.is_empty():
                fill(database)
            elif settings.seed_path is not None:
                log.info("the database is not empty: only process settings are read from %s", settings.seed_path.name)
            seal = seeding.load_seal(settings.secret_key)
            if settings.secret_key:
                seal = seeding.seal_all(database, settings.secret_key)
            _refuse_published_key(settings)
            machine, others = machines.register(database, settings.data_dir)
            deployment = seeding.deployment()
        # Accounts are loaded again: the database may be another one than at the last start, or an older copy.
        state = MmapState(settings.data_dir / "state")
        state.forget()
        state.close()
    except StartupError:
        raise
    except Exception as fault:
        log.debug("preparing the database failed", exc_info=fault)
        raise StartupError([f"GPROXY_DSN: the database cannot be prepared: {_reason(fault)}"]) from None
    if others and settings.redis_url is None:
        log.warning(
            "%d other machines work on this database; without GPROXY_REDIS_URL, limits and quotas hold per machine",
            others,
        )
    return Prepared(machine, seal, deployment)


def _reason(fault: Exception) -> str:
    """The first line of a database's error message, in which drivers name the address and never the password."""
    return f"{type(fault).__name__}: {str(fault).strip().splitlines()[0] if str(fault).strip() else 'no reason given'}"


def _refuse_published_key(settings: Settings) -> None:
    if not is_loopback(settings.host) and users.key_exists(keys.digest(PUBLISHED_KEY)):
        raise StartupError(
            [
                f"GPROXY_HOST: the database knows the published quick-start key {PUBLISHED_KEY}, which would be open "
                f"to the network on {settings.host}; delete that key or listen on 127.0.0.1"
            ]
        )


@dataclass
class Runtime:
    """One running process. `web` finds it in `app.extensions["gproxy"]`."""

    settings: Settings
    database: Database
    snapshots: Snapshots
    change_counter: ChangeCounter
    journal: Journal
    writer: Writer
    protocols: Mapping[str, ModuleType]
    kinds: Mapping[str, Kind]
    upstream: Client
    ttl_store: TtlStore
    reserver: Reserver
    relay: Relay
    model_list: ModelList
    machine: int
    seal: Seal | None
    threads: Threads  # for queries, which may be slow: nothing that must be prompt waits for them
    changing_threads: Threads  # for changes
    passwords: Threads  # a single thread: hashing a password takes 20 MB
    shared: SharedState
    owner: str
    ledger_checker: LedgerChecker
    recorder: Recorder
    mover: Mover
    retention: Retention
    mmap_values: MmapValues
    totals_thread: Threads  # a single thread: adds up the metrics of all workers
    shared_dict_sync: object | None = None  # exchanges the health of credentials with other machines
    _preloaded: Snapshot | None = None  # the snapshot whose limits and quotas were preloaded last
    _greenlets: list[gevent.Greenlet] = field(default_factory=list)

    def ask(self, query: Callable, *args):
        """Runs a query of the store in a native thread and returns its result. Raises Unavailable, BadRequest."""
        return self.threads.run(self.database.run_for_caller, query, *args)

    def change(self, actor: Actor | None, function: Callable, *args):
        """Runs a changing function of the store, and announces the change to all workers before it returns.

        With an actor the change is written to the audit log. Raises Unavailable, and what the function raises.
        """
        result = self._run_change(actor, function, *args)
        self.change_counter.increment()
        return result

    def _run_change(self, actor: Actor | None, function: Callable, *args):
        if actor is None:
            return self.changing_threads.run(self.database.run_for_caller, function, self.database, *args)
        return self.changing_threads.run(
            self.database.run_for_caller, run_audited, self.database, actor, self.seal, function, *args
        )

    def change_account(self, actor: Actor, function: Callable, account: str, *args):
        """Like `change`, for a function that changes an account's cap or used amount: the account is loaded again."""
        result = self._run_change(actor, function, *args)
        self.shared.forget(account)
        self.change_counter.increment()
        return result

    def export(self) -> seeding.Content:
        """Returns the configuration with its secrets. Raises Unavailable."""
        return self.ask(exporting.content, self.seal)

    def apply_import(self, actor: Actor, text: str, reserved: frozenset[str], prunes: bool, is_dry: bool) -> list:
        """Imports a configuration in TOML and returns the changes. Raises BadRequest, Unavailable.

        `prunes`: rows that the text does not contain are deleted. `is_dry`: nothing is changed.
        """
        content = self.threads.run(self._read, text, reserved)
        changes = self._run_change(
            None if is_dry else actor, importing.apply_import, content, self.seal, prunes, is_dry
        )
        if changes and not is_dry:
            for row in self.ask(accounts.list_accounts, {}, time.time_ns()):
                self.shared.forget(f"u{row[0]}")
            self.change_counter.increment()
        return changes

    def _read(self, text: str, reserved: frozenset[str]) -> seeding.Content:
        try:
            document = tomllib.loads(text, parse_float=Decimal)
            return bootstrap.read(document, "toml", self.settings.environ, self.kinds, reserved)
        except (ValueError, RecursionError) as fault:
            raise BadRequest(f"toml: not readable: {fault}") from None
        except StartupError as fault:
            raise BadRequest("; ".join(fault.problems)) from None

    def readiness(self) -> dict:
        """Returns the flags and counts of `/readyz`.

        `serving`: calls are accepted. `persisting`: usage rows reach the database. `current`: the latest configuration
        is loaded. `shared`: limits and quotas apply over all workers, and with Redis over all machines.
        `credentials_usable`: credentials of enabled providers that are not disabled by a refusal or missing funds.
        """
        current = self.snapshots.current
        credentials = (
            [one for provider in current.providers.values() for one in provider.credentials] if current else []
        )
        return {
            "serving": current is not None and self.journal.is_writable,
            "persisting": self.writer.is_persisting,
            "current": self.snapshots.is_current,
            "shared": self.shared.is_shared,
            "in_flight": self.relay.running.capacity.requests,
            "clients_gone": self.relay.running.client_disconnects,
            "credentials": len(credentials),
            "credentials_usable": sum(map(self.relay.pool.is_usable, credentials)),
        }

    def metrics(self) -> str:
        """Returns the metrics of all workers of this machine, as text for Prometheus."""
        current = self.snapshots.current
        providers = tuple(current.providers.values()) if current is not None else ()
        statuses = self.relay.pool.statuses([one for provider in providers for one in provider.credentials])
        series = call_metrics.credentials(providers, statuses)
        return self.totals_thread.run(self._write_metrics, series)

    def _write_metrics(self, series: dict) -> str:
        """In a native thread, because there may be many series."""
        totals = self.mmap_values.totals()
        series |= call_metrics.process(__version__, totals.workers, slots.size(self.settings.data_dir / "journal"))
        return exposition.write(definitions.FAMILIES, totals.values | series)

    def poll_changes(self) -> None:
        """Loop: loads changes of other machines, and renews the leases of this process."""
        renewed = time.monotonic()
        while True:
            gevent.sleep(POLL_S)
            self.snapshots.refresh()
            if not self.journal.is_writable:
                self.journal.check_space()
            if self.shared_dict_sync is not None and self.shared.is_shared:
                self._quietly(self.shared_dict_sync.exchange)
            now = time.monotonic()
            if now - renewed >= RENEW_S:
                renewed = now
                self._quietly(self._renew)

    def renew_machine(self) -> None:
        """Loop: writes into the database that this machine runs."""
        while True:
            gevent.sleep(machines.HEARTBEAT_S)
            self._quietly(self.threads.run, self.database.run, machines.heartbeat, self.machine)

    def heartbeat(self) -> None:
        """Loop: sends heartbeats into idle streams."""
        while True:
            gevent.sleep(POLL_S)
            self.relay.running.send_heartbeats()

    def preload_limits(self) -> None:
        """Loop: loads the limits and quotas of all callers into the shared state after each change."""
        while True:
            self._quietly(self._preload)
            gevent.sleep(POLL_S)

    def verify_ledger(self) -> None:
        """Loop: compares accounts with usage rows."""
        while True:
            gevent.sleep(LEDGER_CHECK_S)
            self._quietly(self.ledger_checker.check)

    def apply_retention(self) -> None:
        """Loop: deletes request logs and usage rows beyond their age or size."""
        while True:
            gevent.sleep(RETENTION_S)
            if self.snapshots.current is not None:
                self._quietly(self.retention.apply, self.snapshots.current.logging)

    def _quietly(self, function: Callable, *args) -> None:
        try:
            function(*args)
        except GatewayError as fault:
            log.debug("a background task is postponed: %s", fault.message)
        except Exception as fault:
            log.error("a background task failed: %s", type(fault).__name__, exc_info=fault)

    def _renew(self) -> None:
        """Retries pending settlements, and renews the lease of this process's reservations. Raises Unavailable."""
        self.reserver.settle_pending()
        self.shared.renew(self.owner)

    def _preload(self) -> None:
        """Loads missing accounts and limits into the shared state, so that no request waits for the database."""
        current = self.snapshots.current
        if current is None or current is self._preloaded:
            return
        for caller in current.callers.values():
            rows = (*caller.limits, *caller.key_limits)
            accounts = budgets.accounts(caller)
            if accounts or rows:
                self.reserver.inspect(accounts, tuple(map(limits.limit_of, rows)))
                gevent.sleep(0)
        self._preloaded = current

    def close(self, timeout_s: float = 5.0) -> None:
        """Stores what is settled and releases all resources."""
        for greenlet in self._greenlets:
            greenlet.kill()
        self._quietly(self.reserver.settle_pending)
        self.writer.close(timeout_s)
        self.mover.close(timeout_s)
        self.retention.close()
        self.mmap_values.close()  # the writer has released their number, so another worker may wait for these files
        self.upstream.close()
        self.ttl_store.close()
        self.relay.pool.close()
        if self.shared_dict_sync is not None:
            self.shared_dict_sync.close()
        self.ledger_checker.close()
        self.shared.close()
        self.change_counter.close()


def start(settings: Settings, prepared: Prepared) -> Runtime:
    """Starts everything that one process needs. Called after the fork, because processes must not share any of it."""
    collector.tune_threads()
    database = Database(settings.dsn, settings.data_dir)
    change_counter = ChangeCounter(settings.data_dir / "signal")
    threads = Threads(2)
    # A reload has a thread of its own: a slow query must not delay a change of the configuration.
    snapshots = Snapshots(settings, prepared.seal, database, change_counter, Threads(1))
    root = settings.data_dir / "journal"
    slot = slots.take_slot(root)
    journal = Journal(slot)
    owner = slot.new_owner(prepared.machine)
    shared = shared_state(settings, prepared.deployment)
    writer = Writer(journal, root, usages.UsageStore(database), Threads(1), shared, owner)
    state_loader = StateLoader(shared, root, prepared.machine, _LoaderQueries(database), Threads(1), time.time_ns)
    reserver = Reserver(shared, owner, state_loader.load, change_counter.read)
    ids = Ids(prepared.machine, slot.number, _newest_id(database, threads))
    shared_dict = SharedDict(settings.data_dir / "health", expires, is_synced=settings.redis_url is not None)
    mmap_values = MmapValues(settings.data_dir / "metrics", slot.number, definitions.GAUGES)
    metrics = CallMetrics(mmap_values, lambda: snapshots.current)
    writer.on_stored = metrics.stored
    pool = Pool(shared_dict, reserver, ids.next, is_current=lambda credential: snapshots().is_current(credential))
    wire_protocols, kinds = protocols.load(), channels.load()
    upstream, images = _upstream(settings)
    ttl_store = TtlStore(settings.data_dir / "keepsakes")
    tokens = AccessTokens(upstream, Threads(1).run)
    running = RunningCalls(Capacity(settings.max_inflight, settings.max_inflight_bytes), metrics)
    relay = Relay(
        snapshot=snapshots,
        planner=Planner(wire_protocols, kinds, ttl_store),
        pool=pool,
        opener=CallOpener(wire_protocols, journal, ids, reserver, metrics),
        attempts=Attempts(wire_protocols, upstream, tokens, images, metrics),
        answers=Answers(wire_protocols, ttl_store, running.count_disconnect),
        running=running,
    )
    recorder, mover = _request_log(settings, database, snapshots, ids)
    runtime = Runtime(
        settings=settings,
        database=database,
        snapshots=snapshots,
        change_counter=change_counter,
        journal=journal,
        writer=writer,
        protocols=wire_protocols,
        kinds=kinds,
        upstream=upstream,
        ttl_store=ttl_store,
        reserver=reserver,
        relay=relay,
        model_list=ModelList(wire_protocols, kinds, pool, tokens, upstream),
        machine=prepared.machine,
        seal=prepared.seal,
        threads=threads,
        changing_threads=Threads(2),
        passwords=Threads(1),
        shared=shared,
        owner=owner,
        recorder=recorder,
        mover=mover,
        retention=_retention(settings, database),
        mmap_values=mmap_values,
        totals_thread=Threads(1),
        shared_dict_sync=_shared_dict_sync(settings, prepared.deployment, shared_dict),
        ledger_checker=LedgerChecker(
            settings.data_dir / "audit.lock", partial(database.run, ledger_check.verify), Threads(1)
        ),
    )
    prices.shipped()
    writer.start()
    mover.start()
    snapshots.refresh()
    runtime._greenlets += map(
        gevent.spawn,
        (
            runtime.poll_changes,
            runtime.renew_machine,
            runtime.heartbeat,
            runtime.preload_limits,
            runtime.verify_ledger,
            runtime.apply_retention,
        ),
    )
    return runtime


def _upstream(settings: Settings) -> tuple[Client, ImageFetcher]:
    # The operator's bundle in OpenSSL's own variable, else the one that comes with requests.
    ca_file = settings.environ.get("SSL_CERT_FILE") or certifi.where()
    tls = ssl.create_default_context(cafile=ca_file)
    return Client(settings.proxy, tls, ca_file, settings.max_inflight), ImageFetcher(tls, settings.proxy)


def _request_log(settings: Settings, database: Database, snapshots: Snapshots, ids: Ids) -> tuple[Recorder, Mover]:
    """The recorder of request logs, and the mover of its rows into the database."""
    root = settings.data_dir / "spool"
    spool = Spool(root)
    own = frozenset(secrets_of(settings))
    recorder = Recorder(spool, snapshots, lambda: snapshots.current, ids.next, own, settings.log_body)
    return recorder, Mover(
        spool, root, partial(database.run_on_kept_connection, request_logs.insert, database), Threads(1)
    )


def shared_state(settings: Settings, deployment: str) -> SharedState:
    """The shared state: a file of this machine or, with GPROXY_REDIS_URL, Redis with that file as its fallback."""
    local = MmapState(settings.data_dir / "state")
    if settings.redis_url is None:
        return local
    # Imported only if it is used, because it takes memory and time.
    from gproxy.state.redis.circuit_breaker import CircuitBreaker
    from gproxy.state.redis.state import RedisState

    try:
        return CircuitBreaker(RedisState(settings.redis_url, deployment), local)
    except ValueError as fault:  # its text does not contain the URL, which may contain a password
        raise StartupError([f"GPROXY_REDIS_URL: {fault}"]) from None


def _retention(settings: Settings, database: Database) -> Retention:
    trim_log = partial(database.run, request_logs.trim, database)
    trim_usages = partial(database.run, accounts.delete_usages_before, database)
    return Retention(settings.data_dir / "retention.lock", trim_log, trim_usages, Threads(1), tuple(request_logs.KINDS))


def _shared_dict_sync(settings: Settings, deployment: str, shared_dict: SharedDict):
    if settings.redis_url is None:
        return None
    from gproxy.state.redis.shared_dict_sync import SharedDictSync

    return SharedDictSync(settings.redis_url, deployment, shared_dict)


class _LoaderQueries:
    """The store's queries about accounts and limits, run in the calling thread."""

    def __init__(self, database: Database):
        self._database = database

    def account_state(self, *args):
        return self._database.run(ledger.account_state, *args)

    def limit_history(self, *args):
        return self._database.run(limit_replay.replay_limit, *args)


def _newest_id(database: Database, threads: Threads) -> int:
    try:
        return threads.run(database.run, usages.newest_id)
    except Unavailable:
        return 0  # ids then depend on the clock alone
