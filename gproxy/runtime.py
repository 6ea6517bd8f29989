"""Composes and closes one process: store, state, snapshot, journal and relay. Used by workers and by test fixtures."""

import logging
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import certifi

from gproxy import channels, protocols, tasks
from gproxy.accounting import prices, slots
from gproxy.accounting.damage import DamagedLines
from gproxy.accounting.journal import Ids, Journal
from gproxy.accounting.ledger_check import LedgerChecker
from gproxy.accounting.retention import Retention
from gproxy.accounting.slots import MachineSlots, Slot
from gproxy.accounting.state_loader import StateLoader
from gproxy.accounting.writer import Writer
from gproxy.admin_ops import AdminOps, ConfigurationReader
from gproxy.admission import keys
from gproxy.admission.capacity import Capacity
from gproxy.channels.kind import Kind
from gproxy.credentials.access_tokens import AccessTokens
from gproxy.credentials.pool import Pool, expires
from gproxy.errors import StartupError, Unavailable
from gproxy.fastpath import collector
from gproxy.metrics import definitions
from gproxy.metrics.call_metrics import CallMetrics
from gproxy.metrics.mmap_values import MmapValues
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
from gproxy.snapshots import Snapshots
from gproxy.state.change_counter import ChangeCounter
from gproxy.state.interface import SharedState
from gproxy.state.mmap.state import MmapState
from gproxy.state.shared_dict import SharedDict
from gproxy.state.ttl_store import TtlStore
from gproxy.status import Status
from gproxy.store import (
    accounts,
    ledger,
    ledger_check,
    limit_replay,
    long_patterns,
    machines,
    request_logs,
    seeding,
    usages,
    users,
)
from gproxy.store.database import Database, prepare_folders
from gproxy.store.sealing import Seal
from gproxy.threads import Threads
from gproxy.upstream.client import Client
from gproxy.upstream.images import ImageFetcher

log = logging.getLogger(__name__)

# At the end of a process, the maximum time for storing usage, and for storing request logs.
STORE_S = 5.0


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
            long = long_patterns.describe()
        # Accounts are loaded again: the database may be another one than at the last start, or an older copy.
        state = MmapState(settings.data_dir / "state")
        state.forget()
        state.close()
    except StartupError:
        raise
    except Exception as fault:
        log.debug("preparing the database failed", exc_info=fault)
        raise StartupError([f"GPROXY_DSN: the database cannot be prepared: {_reason(fault)}"]) from None
    for line in long:
        log.warning("%s; it keeps working, but cannot be saved again", line)
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


@dataclass(frozen=True, slots=True)
class Runtime:
    """One running process. `web` finds it in `app.extensions["gproxy"]`."""

    settings: Settings
    snapshots: Snapshots
    relay: Relay
    model_list: ModelList
    recorder: Recorder
    admin: AdminOps
    status: Status
    resources: ExitStack

    @property
    def protocols(self) -> Mapping[str, ModuleType]:
        return self.relay.planner.protocols

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return self.relay.planner.kinds

    @property
    def reserver(self) -> Reserver:
        return self.relay.opener.reserver

    def close(self) -> None:
        """Ends the loops, stores what is settled within STORE_S, and releases all resources."""
        self.resources.close()


def start(settings: Settings, prepared: Prepared) -> Runtime:
    """Starts everything that one process needs. Called after the fork, because processes must not share any of it."""
    collector.tune_threads()
    steps = _Start(settings, prepared, ExitStack())
    configuration = steps.open_configuration()
    accounting = steps.open_accounting(configuration)
    mmap_values = steps.open_metrics(accounting.journal.slot)
    shared_dict = SharedDict(settings.data_dir / "health", expires, is_synced=settings.redis_url is not None)
    relay = steps.open_relay(configuration, accounting, shared_dict, mmap_values)
    recorder = steps.open_request_log(configuration, accounting.ids)
    prices.shipped()
    steps.start_writer(accounting.writer, relay)
    configuration.snapshots.refresh()
    steps.start_tasks(configuration, accounting, relay, shared_dict)
    return Runtime(
        settings=settings,
        snapshots=configuration.snapshots,
        relay=relay,
        model_list=_model_list(relay),
        recorder=recorder,
        admin=steps.admin_ops(configuration, accounting.shared, relay),
        status=Status(
            configuration.snapshots, relay, accounting.journal, accounting.writer, accounting.shared, mmap_values
        ),
        resources=steps.resources,
    )


def _model_list(relay: Relay) -> ModelList:
    attempts = relay.attempts
    return ModelList(relay.planner.protocols, relay.planner.kinds, relay.pool, attempts.tokens, attempts.upstream)


@dataclass(frozen=True, slots=True)
class _Configuration:
    """The database, and what is loaded from it."""

    database: Database
    change_counter: ChangeCounter
    snapshots: Snapshots
    threads: Threads  # for queries of administrators


@dataclass(frozen=True, slots=True)
class _Accounting:
    """What reserves, settles and stores calls."""

    journal: Journal
    ids: Ids
    shared: SharedState
    reserver: Reserver
    writer: Writer


@dataclass(frozen=True, slots=True)
class _Start:
    """The steps of a start. `resources` are released in the reverse order of the steps."""

    settings: Settings
    prepared: Prepared
    resources: ExitStack

    def open_configuration(self) -> _Configuration:
        """Opens the database. The snapshot is loaded by the first `refresh`."""
        database = Database(self.settings.dsn, self.settings.data_dir)
        change_counter = self.resources.enter_context(closing(ChangeCounter(self.settings.data_dir / "signal")))
        # A reload has a thread of its own: a slow query must not delay a change of the configuration.
        snapshots = Snapshots(self.settings, self.prepared.seal, database, change_counter, Threads(1))
        return _Configuration(database, change_counter, snapshots, Threads(2))

    def open_accounting(self, configuration: _Configuration) -> _Accounting:
        """Takes a journal slot, and opens the shared state. The writer is not started yet."""
        database, machine, root = configuration.database, self.prepared.machine, self.settings.data_dir / "journal"
        slot = slots.take_slot(root)
        journal = Journal(slot)
        owner = slot.new_owner(machine)
        shared = self.resources.enter_context(closing(shared_state(self.settings, self.prepared.deployment)))
        damaged = DamagedLines(self.settings.data_dir / "damaged")
        writer = Writer(journal, usages.UsageStore(database), Threads(1), shared, owner, damaged)
        state_loader = StateLoader(
            shared, MachineSlots(root, machine), _LoaderQueries(database), Threads(1), time.time_ns
        )
        reserver = Reserver(shared, owner, state_loader.load, configuration.change_counter.read)
        ids = Ids(machine, slot.number, _newest_id(database, configuration.threads))
        return _Accounting(journal, ids, shared, reserver, writer)

    def open_metrics(self, slot: Slot) -> MmapValues:
        """Opens the metrics of this worker. They are closed after the writer, which releases the slot's number."""
        values = MmapValues(self.settings.data_dir / "metrics", slot.number, definitions.GAUGES)
        return self.resources.enter_context(closing(values))

    def open_relay(
        self,
        configuration: _Configuration,
        accounting: _Accounting,
        shared_dict: SharedDict,
        mmap_values: MmapValues,
    ) -> Relay:
        """Returns the relay, with the state of the credentials and the connections to upstreams."""
        settings, snapshots = self.settings, configuration.snapshots
        # The operator's bundle in OpenSSL's own variable, else the one that comes with requests.
        ca_file = settings.environ.get("SSL_CERT_FILE") or certifi.where()
        tls = ssl.create_default_context(cafile=ca_file)
        upstream = Client(settings.proxy, tls, ca_file, settings.max_inflight)
        pool = Pool(
            shared_dict,
            accounting.reserver,
            accounting.ids.next,
            is_current=lambda credential: snapshots().is_current(credential),
        )
        metrics = CallMetrics(mmap_values, lambda: snapshots.current)
        wire_protocols, kinds = protocols.load(), channels.load()
        ttl_store = TtlStore(settings.data_dir / "keepsakes")
        tokens, images = AccessTokens(upstream, Threads(1).run), ImageFetcher(tls, settings.proxy)
        running = RunningCalls(Capacity(settings.max_inflight, settings.max_inflight_bytes), metrics)
        for part in (pool, ttl_store, upstream):
            self.resources.callback(part.close)
        return Relay(
            snapshot=snapshots,
            planner=Planner(wire_protocols, kinds, ttl_store),
            pool=pool,
            opener=CallOpener(wire_protocols, accounting.journal, accounting.ids, accounting.reserver, metrics),
            attempts=Attempts(wire_protocols, upstream, tokens, images, metrics),
            answers=Answers(wire_protocols, ttl_store, running.count_disconnect),
            running=running,
        )

    def open_request_log(self, configuration: _Configuration, ids: Ids) -> Recorder:
        """Returns the recorder of request logs, and starts the mover of its rows into the database."""
        settings, database, snapshots = self.settings, configuration.database, configuration.snapshots
        root = settings.data_dir / "spool"
        spool = Spool(root)
        insert = partial(database.run_on_kept_connection, request_logs.insert, database)
        mover = Mover(spool, root, insert, Threads(1))
        mover.start()
        self.resources.callback(mover.close, STORE_S)
        own = frozenset(secrets_of(settings))
        return Recorder(spool, snapshots, lambda: snapshots.current, ids.next, own, settings.log_body)

    def start_writer(self, writer: Writer, relay: Relay) -> None:
        """Starts moving the journal into the database."""
        writer.on_stored = relay.running.metrics.stored
        writer.start()
        self.resources.callback(writer.close, STORE_S)

    def start_tasks(
        self, configuration: _Configuration, accounting: _Accounting, relay: Relay, shared_dict: SharedDict
    ) -> None:
        """Starts the background loops."""
        database, snapshots, threads = configuration.database, configuration.snapshots, configuration.threads
        reserver, shared = accounting.reserver, accounting.shared
        settle_pending = partial(tasks.run_quietly, reserver.settle_pending)
        self.resources.callback(settle_pending)
        loops = tasks.Tasks()
        renew_machine = partial(threads.run, database.run, machines.heartbeat, self.prepared.machine)
        loops.repeat(tasks.POLL_S, snapshots.refresh)  # finds changes of other machines
        loops.repeat(tasks.POLL_S, partial(tasks.check_journal, accounting.journal))
        loops.repeat(tasks.RENEW_S, partial(tasks.renew_reservations, reserver))
        loops.repeat(machines.HEARTBEAT_S, renew_machine)
        loops.repeat(tasks.POLL_S, relay.running.send_heartbeats)
        loops.repeat(tasks.POLL_S, tasks.LimitPreloader(snapshots, reserver).preload, starts_now=True)
        loops.repeat(tasks.LEDGER_CHECK_S, self._ledger_checker(database).check)
        loops.repeat(tasks.RETENTION_S, partial(tasks.apply_retention, self._retention(database), snapshots))
        if self.settings.redis_url is not None:
            loops.repeat(tasks.POLL_S, self._exchange(self.settings.redis_url, shared, shared_dict))
        self.resources.callback(loops.stop)

    def _ledger_checker(self, database: Database) -> LedgerChecker:
        checker = LedgerChecker(
            self.settings.data_dir / "audit.lock", partial(database.run, ledger_check.verify), Threads(1)
        )
        return self.resources.enter_context(closing(checker))

    def _retention(self, database: Database) -> Retention:
        trim_log = partial(database.run, request_logs.trim, database)
        trim_usages = partial(database.run, accounts.delete_usages_before, database)
        lock, kinds = self.settings.data_dir / "retention.lock", tuple(request_logs.KINDS)
        return self.resources.enter_context(closing(Retention(lock, trim_log, trim_usages, Threads(1), kinds)))

    def _exchange(self, redis_url: str, shared: SharedState, shared_dict: SharedDict) -> Callable[[], None]:
        """Returns the task that exchanges the health of credentials with other machines while Redis is available."""
        # Imported only if it is used, because it takes memory and time.
        from gproxy.state.redis.shared_dict_sync import SharedDictSync

        sync = self.resources.enter_context(closing(SharedDictSync(redis_url, self.prepared.deployment, shared_dict)))
        return lambda: sync.exchange() if shared.is_shared else None

    def admin_ops(self, configuration: _Configuration, shared: SharedState, relay: Relay) -> AdminOps:
        """Returns the queries and changes for administrators."""
        reader = ConfigurationReader(self.settings.environ, relay.planner.kinds)
        return AdminOps(
            database=configuration.database,
            seal=self.prepared.seal,
            shared=shared,
            change_counter=configuration.change_counter,
            reader=reader,
            threads=configuration.threads,
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


class _LoaderQueries:
    """The store's queries about accounts and limits, run in the calling thread."""

    def __init__(self, database: Database):
        self._database = database

    def account_state(
        self, user_id: int | None, key_id: int | None, ids: list[int], segments: list[str]
    ) -> ledger.AccountState:
        return self._database.run(ledger.account_state, user_id, key_id, ids, segments)

    def limit_history(self, limit_id: int, since: int, now: int, ids: list[int]) -> limit_replay.LimitReplay | None:
        return self._database.run(limit_replay.replay_limit, limit_id, since, now, ids)


def _newest_id(database: Database, threads: Threads) -> int:
    try:
        return threads.run(database.run, usages.newest_id)
    except Unavailable:
        return 0  # ids then depend on the clock alone
