"""Start and close of one process: store, state, snapshot, journal, relay. Used by workers and test fixtures alike."""

import logging
import ssl
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

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
from gproxy.credentials.access_tokens import Tokens
from gproxy.credentials.pool import Pool, expires
from gproxy.errors import BadRequest, GatewayError, StartupError, Unavailable
from gproxy.metrics import call_metrics, definitions, exposition
from gproxy.metrics.call_metrics import CallMetrics
from gproxy.metrics.mmap_values import MmapValues
from gproxy.quota import budgets, limits
from gproxy.quota.reservations import Reserver
from gproxy.relay.model_list import ModelList
from gproxy.relay.pipeline import Relay
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
from gproxy.store.audit import Actor, audited
from gproxy.store.database import Database, prepare_folders
from gproxy.store.sealing import Seal
from gproxy.threads import Threads
from gproxy.upstream.client import Client
from gproxy.upstream.images import Images

log = logging.getLogger(__name__)

POLL_S = 0.5
# How often the books are checked; the lease of what this process holds in Redis is renewed oftener than it ends.
CHECK_S, RENEW_S = 60.0, 5.0
KEEP_S = 60.0
# The thread that books usage gives the interpreter back this often, so that no stream waits for it.
SWITCH_S = 0.0005


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the master finds out once, before the workers."""

    machine: int
    seal: Seal | None
    deployment: str  # names the database where several share one Redis


def prepare(settings: Settings, fill: Callable[[Database], None]) -> Prepared:
    """Migrates, and fills an empty database, once however many processes start. Raises StartupError."""
    database = Database(settings.dsn, settings.data_dir)
    prepare_folders(settings.data_dir, database.path)
    try:
        with database.alone():
            for name in database.migrate():
                log.info("applied migration %s", name)
            if seeding.is_empty():
                fill(database)
            elif settings.seed_path is not None:
                log.info("the database is filled: of %s only process settings are read", settings.seed_path.name)
            seal = seeding.seal_of(settings.secret_key)
            if settings.secret_key:
                seal = seeding.seal_all(database, settings.secret_key)
            _refuse_published_key(settings)
            machine, others = machines.register(database, settings.data_dir)
            deployment = seeding.deployment()
        # The books decide what accounts have used: the database may be another one than last time, or an older copy.
        counted = MmapState(settings.data_dir / "state")
        counted.forget()
        counted.close()
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
    """The first line of a database's complaint; drivers put the address there and never the password."""
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
    """One running process. Web finds it in `app.extensions["gproxy"]`."""

    settings: Settings
    database: Database
    snapshots: Snapshots
    change_counter: ChangeCounter
    journal: Journal
    writer: Writer
    relay: Relay
    catalogue: ModelList
    machine: int
    seal: Seal | None
    threads: Threads
    passwords: Threads  # one at a time: a check takes 20 MB
    shared: SharedState
    owner: str
    ledger_checker: LedgerChecker
    recorder: Recorder
    mover: Mover
    retention: Retention
    mmap_values: MmapValues
    counting: Threads  # where all workers' numbers are added up, for one who asks after the other
    shared_dict_sync: object | None = None  # state.notices, tells other machines of health
    _acquainted: Snapshot | None = None
    _greenlets: list[gevent.Greenlet] = field(default_factory=list)

    def ask(self, question: Callable, *args):
        """The answer of a store question, off the hub. Raises Unavailable, BadRequest."""
        return self.threads.run(self.database.answer, question, *args)

    def change(self, actor: Actor | None, function: Callable, *args):
        """Runs a store deed and makes its change known to every worker before it returns.

        What it does is kept with who asked for it. Raises Unavailable, and what the deed raises.
        """
        result = self._do(actor, function, *args)
        self.change_counter.raise_()
        return result

    def _do(self, actor: Actor | None, function: Callable, *args):
        if actor is None:
            return self.threads.run(self.database.answer, function, self.database, *args)
        return self.threads.run(self.database.answer, audited, self.database, actor, self.seal, function, *args)

    def change_account(self, actor: Actor, function: Callable, account: str, *args):
        """The same for a deed that changes what an account may or did use: it is read again before it is used."""
        result = self._do(actor, function, *args)
        self.shared.forget(account)
        self.change_counter.raise_()
        return result

    def export(self) -> seeding.Content:
        """The configuration with its secrets. Raises Unavailable."""
        return self.ask(exporting.content, self.seal)

    def apply_import(self, actor: Actor, text: str, reserved: frozenset[str], prunes: bool, is_dry: bool) -> list:
        """A configuration in TOML over the one that stands; what that changes. Raises BadRequest, Unavailable."""
        wanted = self.threads.run(self._read, text, reserved)
        changes = self._do(None if is_dry else actor, importing.apply_import, wanted, self.seal, prunes, is_dry)
        if changes and not is_dry:
            for row in self.ask(accounts.of_users, {}, time.time_ns()):
                self.shared.forget(f"u{row[0]}")
            self.change_counter.raise_()
        return changes

    def _read(self, text: str, reserved: frozenset[str]) -> seeding.Content:
        try:
            document = tomllib.loads(text, parse_float=Decimal)
            return bootstrap.read(document, "toml", self.settings.environ, self.relay.kinds, reserved)
        except (ValueError, RecursionError) as fault:
            raise BadRequest(f"toml: not readable: {fault}") from None
        except StartupError as fault:
            raise BadRequest("; ".join(fault.problems)) from None

    def readiness(self) -> dict:
        """`serving`: calls are taken. `persisting`: usage reaches the database. `current`: no change waits.

        `shared`: limits and quotas hold over all workers, and over all machines where Redis is set.
        `credentials_usable`: those of enabled providers that neither are refused nor have no money.
        """
        current = self.snapshots.current
        credentials = (
            [one for provider in current.providers.values() for one in provider.credentials] if current else []
        )
        return {
            "serving": self.snapshots.current is not None and self.journal.is_writable,
            "persisting": self.writer.is_persisting,
            "current": self.snapshots.is_current,
            "shared": self.shared.is_shared,
            "in_flight": self.relay.capacity.requests,
            "clients_gone": self.relay.client_disconnects,
            "credentials": len(credentials),
            "credentials_usable": sum(map(self.relay.pool.is_usable, credentials)),
        }

    def metrics(self) -> str:
        """What all workers of this machine measured, as text for Prometheus."""
        current = self.snapshots.current
        providers = tuple(current.providers.values()) if current is not None else ()
        statuses = self.relay.pool.statuses([one for provider in providers for one in provider.credentials])
        shown = call_metrics.credentials(providers, statuses)
        return self.counting.run(self._metrics, shown)

    def _metrics(self, shown: dict) -> str:
        """In a native thread: there may be many series."""
        sums = self.mmap_values.sums()
        shown |= call_metrics.process(__version__, sums.workers, slots.size(self.settings.data_dir / "journal"))
        return exposition.write(definitions.FAMILIES, sums.values | shown)

    def tend(self) -> None:
        """Looks for other machines' changes, and says that this machine is alive."""
        told = renewed = time.monotonic()
        while True:
            gevent.sleep(POLL_S)
            self.snapshots.refresh()
            if not self.journal.is_writable:
                self.journal.probe()
            if self.shared_dict_sync is not None and self.shared.is_shared:
                self._quietly(self.shared_dict_sync.exchange)
            now = time.monotonic()
            if now - renewed >= RENEW_S:
                renewed = now
                self._quietly(self._renew)
            if now - told >= machines.SEEN_S:
                told = now
                self._quietly(self.threads.run, self.database.run, machines.seen, self.machine)

    def beat(self) -> None:
        while True:
            gevent.sleep(POLL_S)
            self.relay.send_heartbeats()

    def meet(self) -> None:
        """Makes the shared state know every caller."""
        while True:
            self._quietly(self._meet_all)
            gevent.sleep(POLL_S)

    def audit(self) -> None:
        while True:
            gevent.sleep(CHECK_S)
            self._quietly(self.ledger_checker.check)

    def keep(self) -> None:
        """Lets go of what is too old or takes too much room."""
        while True:
            gevent.sleep(KEEP_S)
            if self.snapshots.current is not None:
                self._quietly(self.retention.keep, self.snapshots.current.logging)

    def _quietly(self, function: Callable, *args) -> None:
        try:
            function(*args)
        except GatewayError as fault:
            log.debug("what is tended waits: %s", fault.message)
        except Exception as fault:
            log.error("what is tended failed: %s", type(fault).__name__, exc_info=fault)

    def _renew(self) -> None:
        """What waits to be settled, and the lease of what we hold. Raises Unavailable."""
        self.relay.reserver.retry()
        self.shared.renew(self.owner)

    def _meet_all(self) -> None:
        """Loads what the shared state does not know yet, so that no request waits for it, and none for the database."""
        current = self.snapshots.current
        if current is None or current is self._acquainted:
            return
        for caller in current.callers.values():
            rows = (*caller.limits, *caller.key_limits)
            accounts = budgets.accounts(caller)
            if accounts or rows:
                self.relay.reserver.look(accounts, tuple(map(limits.counted, rows)))
                gevent.sleep(0)
        self._acquainted = current

    def close(self, timeout_s: float = 5.0) -> None:
        """Books what is left and lets go of everything."""
        for greenlet in self._greenlets:
            greenlet.kill()
        self._quietly(self.relay.reserver.retry)
        self.writer.close(timeout_s)
        self.mover.close(timeout_s)
        self.retention.close()
        self.mmap_values.close()  # next, since our number is free now
        self.relay.upstream.close()
        self.relay.ttl_store.close()
        self.relay.pool.close()
        if self.shared_dict_sync is not None:
            self.shared_dict_sync.close()
        self.ledger_checker.close()
        self.shared.close()
        self.change_counter.close()


def start(settings: Settings, prepared: Prepared) -> Runtime:
    """Everything one process needs; after the fork, since nothing here may be shared."""
    sys.setswitchinterval(SWITCH_S)
    database = Database(settings.dsn, settings.data_dir)
    change_counter = ChangeCounter(settings.data_dir / "signal")
    threads = Threads(2)
    snapshots = Snapshots(settings, prepared.seal, database, change_counter, threads)
    root = settings.data_dir / "journal"
    slot = slots.take_slot(root)
    journal = Journal(slot)
    owner = slot.sign(prepared.machine)
    shared = shared_state(settings, prepared.deployment)
    writer = Writer(journal, root, usages.UsageStore(database), Threads(1), shared, owner)
    state_loader = StateLoader(shared, root, prepared.machine, _Questions(database), Threads(1), time.time_ns)
    reserver = Reserver(shared, owner, state_loader.load, change_counter.look)
    ids = Ids(prepared.machine, slot.number, _newest_id(database, threads))
    shared_dict = SharedDict(settings.data_dir / "health", expires, shares=settings.redis_url is not None)
    mmap_values = MmapValues(settings.data_dir / "metrics", slot.number, definitions.GAUGES)
    measured = CallMetrics(mmap_values, lambda: snapshots.current)
    writer.told = measured.booked
    relay = _relay(
        settings, snapshots, journal, ids, reserver, Pool(shared_dict, reserver, ids.next), measured, threads
    )
    recorder, mover = _recording(settings, database, snapshots, ids)
    runtime = Runtime(
        settings=settings,
        database=database,
        snapshots=snapshots,
        change_counter=change_counter,
        journal=journal,
        writer=writer,
        relay=relay,
        catalogue=ModelList(relay),
        machine=prepared.machine,
        seal=prepared.seal,
        threads=threads,
        passwords=Threads(1),
        shared=shared,
        owner=owner,
        recorder=recorder,
        mover=mover,
        retention=_retention(settings, database),
        mmap_values=mmap_values,
        counting=Threads(1),
        shared_dict_sync=_shared_dict_sync(settings, prepared.deployment, shared_dict),
        ledger_checker=LedgerChecker(
            settings.data_dir / "audit.lock", partial(database.run, ledger_check.verify), Threads(1)
        ),
    )
    prices.shipped()
    writer.start()
    mover.start()
    snapshots.refresh()
    runtime._greenlets += map(gevent.spawn, (runtime.tend, runtime.beat, runtime.meet, runtime.audit, runtime.keep))
    return runtime


def _relay(
    settings: Settings,
    snapshots: Snapshots,
    journal: Journal,
    ids: Ids,
    reserver: Reserver,
    pool: Pool,
    measured: CallMetrics,
    threads: Threads,
) -> Relay:
    # The operator's own bundle, by the name that OpenSSL knows, else the one that comes with requests.
    ca_file = settings.environ.get("SSL_CERT_FILE") or certifi.where()
    tls = ssl.create_default_context(cafile=ca_file)
    upstream = Client(settings.proxy, tls, ca_file, settings.max_inflight)
    return Relay(
        protocols=protocols.load(),
        kinds=channels.load(),
        snapshot=snapshots,
        upstream=upstream,
        images=Images(tls, settings.proxy),
        ttl_store=TtlStore(settings.data_dir / "keepsakes"),
        reserver=reserver,
        pool=pool,
        tokens=Tokens(upstream, threads.run),
        journal=journal,
        ids=ids,
        capacity=Capacity(settings.max_inflight, settings.max_inflight_bytes),
        metrics=measured,
    )


def _recording(settings: Settings, database: Database, snapshots: Snapshots, ids: Ids) -> tuple[Recorder, Mover]:
    """What keeps logs of requests, and what moves them into the database."""
    root = settings.data_dir / "spool"
    spool = Spool(root)
    own = frozenset(secrets_of(settings))
    recorder = Recorder(spool, snapshots, lambda: snapshots.current, ids.next, own, settings.log_body)
    return recorder, Mover(spool, root, partial(database.run_kept, request_logs.book, database), Threads(1))


def shared_state(settings: Settings, deployment: str) -> SharedState:
    """The machine's own file, with Redis before it where it is set."""
    local = MmapState(settings.data_dir / "state")
    if settings.redis_url is None:
        return local
    # Imported only where it is set: it takes memory and time.
    from gproxy.state.redis.circuit_breaker import CircuitBreaker
    from gproxy.state.redis.state import RedisState

    try:
        return CircuitBreaker(RedisState(settings.redis_url, deployment), local)
    except ValueError as fault:  # it does not say the address, which may hold a password
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


class _Questions:
    """The store's questions about accounts and limits, in the calling thread."""

    def __init__(self, database: Database):
        self._database = database

    def standing(self, *asked):
        return self._database.run(ledger.standing, *asked)

    def traffic(self, *asked):
        return self._database.run(limit_replay.traffic, *asked)


def _newest_id(database: Database, threads: Threads) -> int:
    try:
        return threads.run(database.run, usages.newest_id)
    except Unavailable:
        return 0  # the clock alone decides then
