"""Model lists: what they contain for which caller, and which calls share one fetch of a provider's list."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import parse_qsl

import gevent
import pytest
from gevent.event import Event

from gproxy.errors import Forbidden, NoCredential, NotFound, Unsupported, UpstreamError
from gproxy.protocols.hub import ModelCard
from gproxy.relay import model_list as module
from gproxy.relay.model_list import CACHED_AFTER_FAILURE_S, CACHED_S, MAX_PAGES, ModelList
from gproxy.snapshot import Alias, Credential, Dispatch, Grant, Model, Provider, ProviderSettings, Target, glob
from tests.vendor import answers, body, dumps, sends

CHAT = "openai"  # the wire name of model lists for clients of both OpenAI protocols

OLD = Provider(1, "p", "openai", ProviderSettings(), (Credential(1, 1, "old"),))
NEW = replace(OLD, credentials=(Credential(1, 1, "new"),))


@pytest.fixture
def gate() -> Event:
    return Event()


@pytest.fixture
def fetched(monkeypatch, gate) -> list[Provider]:
    """The fetches. That of the old key waits for the gate, and is then refused."""
    found = []

    def fetch(self, provider):
        found.append(provider)
        gate.wait() if provider == OLD else gevent.sleep(0)
        if provider == OLD:
            raise UpstreamError("401")
        return [ModelCard("m")]

    monkeypatch.setattr(ModelList, "_fetch", fetch)
    return found


def test_a_list_is_fetched_once_for_all_that_wait(fetched):
    models = ModelList({}, {}, None, None, None)
    waiting = [gevent.spawn(models._offer, NEW) for _ in range(5)]
    assert [one.get() for one in waiting] == [(ModelCard("m"),)] * 5
    assert models._offer(NEW) == (ModelCard("m"),)
    assert fetched == [NEW]


def test_a_replaced_key_does_not_share_the_fetch_of_the_old_key(fetched, gate):
    models = ModelList({}, {}, None, None, None)
    old = gevent.spawn(models._offer, OLD)
    gevent.sleep(0)
    new = gevent.spawn(models._offer, NEW)
    gevent.sleep(0)
    waiting = gevent.spawn(models._offer, NEW)
    gevent.sleep(0)
    gate.set()
    assert (new.get(), waiting.get(), old.get()) == ((ModelCard("m"),), (ModelCard("m"),), ())
    assert models._offer(NEW) == (ModelCard("m"),)
    assert fetched == [OLD, NEW]


# -- lists of real upstreams ---------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def model_list(worker, clock) -> Iterator[ModelList]:
    """The model lists of a worker. The vendor answers them faithfully unless a test scripts the path."""
    relay = worker.relay
    yield ModelList(
        relay.planner.protocols, relay.planner.kinds, relay.pool, relay.attempts.tokens, worker.upstream, clock
    )
    worker.vendor.scripts.pop("", None)


def serve(worker, *wires: str, **settings) -> None:
    """Makes providers of these protocols without registered models and aliases."""
    worker.serve(*wires, **settings)
    worker.snapshot = replace(worker.snapshot, models={}, aliases={})


def routed(worker, **decisions: str) -> None:
    """Gives the first provider a routing document."""
    routing = {(operation, CHAT): Dispatch(how) for operation, how in decisions.items()}
    first = replace(worker.snapshot.providers["p1"], routing=routing)
    providers = {**worker.snapshot.providers, "p1": first}
    worker.snapshot = replace(
        worker.snapshot, providers=providers, provider_by_id={one.id: one for one in providers.values()}
    )


def names(found: list[tuple[ModelCard, str]]) -> list[str]:
    return [name for _, name in found]


def listings(vendor, seen: int) -> list[str]:
    """Returns the paths of the requests for lists since then."""
    return [one.path for one in vendor.seen[seen:] if one.method == "GET"]


def granted(*patterns: tuple[int | None, str]) -> tuple[Grant, ...]:
    return tuple(Grant(provider, glob(pattern).fullmatch) for provider, pattern in patterns)


def test_all_upstreams_are_listed_each_in_its_own_protocol(worker, model_list):
    serve(worker, "openai_chat", "anthropic", "gemini")
    found = model_list.aggregated(worker.caller, worker.snapshot, CHAT)
    assert names(found) == ["p1/gpt-4.1-mini", "p2/claude-3-5-sonnet-latest", "p3/gemini-1.5-flash"]
    assert [card.protocol for card, _ in found] == ["openai", "anthropic", "gemini"]
    assert names(model_list.scoped(worker.caller, worker.snapshot, "p2", CHAT)) == ["claude-3-5-sonnet-latest"]


@pytest.mark.parametrize(
    "script",
    [
        answers(500, b"{}"),
        answers(404, b"{}"),
        answers(200, b"<html>"),
        answers(200, b"[1]"),
        answers(200, b""),
        sends("close"),
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "close"),
    ],
    ids=["error", "not found", "html", "list", "empty", "closed", "cut"],
)
def test_an_upstream_that_fails_leaves_the_registered_models(worker, vendor, model_list, clock, script):
    serve(worker, "openai_chat")
    worker.snapshot = replace(worker.snapshot, models={(1, "mine"): Model(1, "mine", "Mine", True, None)})
    vendor.scripts[""] = script
    for _ in range(2):
        seen = len(vendor.seen)
        assert names(model_list.aggregated(worker.caller, worker.snapshot, CHAT)) == ["p1/mine"]
        assert len(listings(vendor, seen)) <= 2
    clock.now += CACHED_AFTER_FAILURE_S + 1
    del vendor.scripts[""]
    assert names(model_list.aggregated(worker.caller, worker.snapshot, CHAT)) == ["p1/gpt-4.1-mini", "p1/mine"]


def test_an_upstream_that_answers_too_late_leaves_the_others(worker, vendor, model_list, monkeypatch):
    monkeypatch.setattr(module, "FETCH_S", 0.05)
    serve(worker, "openai_chat", "gemini")

    async def silent(seen, reader, writer):
        if "/v1beta/" in seen.path:
            await sends(body(200, dumps({"models": [{"name": "models/g"}]})))(seen, reader, writer)
        else:
            await sends("hang")(seen, reader, writer)

    vendor.scripts[""] = vendor.scripts["g"] = silent
    try:
        assert names(model_list.aggregated(worker.caller, worker.snapshot, CHAT)) in (["p2/g"], ["p2/gemini-1.5-flash"])
    finally:
        del vendor.scripts["g"]


@pytest.mark.parametrize(("later_s", "fetches"), [(CACHED_S - 1, 1), (CACHED_S + 1, 2)])
def test_a_list_is_cached_for_a_minute(worker, vendor, model_list, clock, later_s, fetches):
    serve(worker, "openai_chat")
    seen = len(vendor.seen)
    model_list.aggregated(worker.caller, worker.snapshot, CHAT)
    clock.now += later_s
    model_list.scoped(worker.caller, worker.snapshot, "p1", CHAT)
    assert len(listings(vendor, seen)) == fetches


def test_permissions_apply_to_a_cached_list(worker, model_list):
    serve(worker, "openai_chat", "anthropic")
    model_list.aggregated(worker.caller, worker.snapshot, CHAT)
    for grants, expected in (
        (granted((None, "gpt-*")), ["p1/gpt-4.1-mini"]),
        (granted((2, "*")), ["p2/claude-3-5-sonnet-latest"]),
        (granted((1, "claude-*")), []),
        ((), []),
    ):
        caller = replace(worker.caller, grants=grants)
        assert names(model_list.aggregated(caller, worker.snapshot, CHAT)) == expected


def test_all_pages_of_a_list_are_read(worker, vendor, model_list):
    serve(worker, "gemini")

    async def paged(seen, reader, writer):
        page = int(dict(parse_qsl(seen.query)).get("pageToken", 0))
        more = {"nextPageToken": str(page + 1)} if page < 2 else {}
        writer.write(body(200, dumps({"models": [{"name": f"models/m{page}"}], **more})))

    vendor.scripts[""] = paged
    assert names(model_list.scoped(worker.caller, worker.snapshot, "p1", CHAT)) == ["m0", "m1", "m2"]


def test_an_endless_list_ends(worker, vendor, model_list):
    serve(worker, "gemini")
    vendor.scripts[""] = answers(200, dumps({"models": [{"name": "models/m"}], "nextPageToken": "again"}))
    seen = len(vendor.seen)
    assert names(model_list.scoped(worker.caller, worker.snapshot, "p1", CHAT)) == ["m"]
    assert len(listings(vendor, seen)) == MAX_PAGES


def test_a_registered_row_overrides_the_upstreams_entry(worker, model_list):
    serve(worker, "openai_chat", "anthropic")
    rows = (
        Model(1, "gpt-4.1-mini", "Our name", True, None),
        Model(2, "claude-3-5-sonnet-latest", None, False, None),
        Model(1, "default", None, True, None),
        Model(2, "extra", None, True, None),
    )
    worker.snapshot = replace(worker.snapshot, models={(one.provider_id, one.model_id): one for one in rows})
    found = model_list.aggregated(worker.caller, worker.snapshot, CHAT)
    assert [(name, card.display_name) for card, name in found] == [("p1/gpt-4.1-mini", "Our name"), ("p2/extra", None)]


def test_an_alias_is_listed_once_while_a_target_is_enabled(worker, model_list):
    serve(worker, "openai_chat", "anthropic")
    targets = (Target(1, "x"), Target(2, "y"), Target(9, "of a disabled provider"))
    aliases = {"chat": Alias("chat", targets, None), "off": Alias("off", (Target(1, "x"),), None)}
    off = {(1, "x"): Model(1, "x", None, False, None)}
    worker.snapshot = replace(worker.snapshot, aliases=aliases, models=off)
    listed = names(model_list.aggregated(worker.caller, worker.snapshot, CHAT))
    assert listed == ["chat", "p1/gpt-4.1-mini", "p2/claude-3-5-sonnet-latest"]
    assert "chat" not in names(model_list.scoped(worker.caller, worker.snapshot, "p1", CHAT))
    assert "chat" in names(model_list.scoped(worker.caller, worker.snapshot, "p2", CHAT))


def test_a_routing_document_decides_what_is_listed(worker, vendor, model_list):
    serve(worker, "openai_chat")
    worker.snapshot = replace(worker.snapshot, models={(1, "mine"): Model(1, "mine", None, True, None)})
    routed(worker, model_list="local")
    seen = len(vendor.seen)
    assert names(model_list.aggregated(worker.caller, worker.snapshot, CHAT)) == ["p1/mine"]
    assert listings(vendor, seen) == []
    routed(worker, model_list="unsupported")
    assert model_list.aggregated(worker.caller, worker.snapshot, CHAT) == []
    with pytest.raises(Unsupported):
        model_list.scoped(worker.caller, worker.snapshot, "p1", CHAT)


@pytest.mark.parametrize(
    ("grants", "error"),
    [(granted((None, "*")), NotFound), (granted((1, "*")), Forbidden), ((), Forbidden)],
    ids=["all providers", "one provider", "nothing"],
)
def test_an_unknown_provider_is_named_only_to_those_who_may_use_all(worker, model_list, grants, error):
    serve(worker, "openai_chat")
    with pytest.raises(error):
        model_list.scoped(replace(worker.caller, grants=grants), worker.snapshot, "p9", CHAT)


def test_a_provider_without_permission_is_forbidden(worker, model_list):
    serve(worker, "openai_chat", "openai_chat")
    with pytest.raises(Forbidden):
        model_list.scoped(replace(worker.caller, grants=granted((1, "*"))), worker.snapshot, "p2", CHAT)


def test_a_channel_inside_the_gateway_is_listed_without_a_request(worker, vendor, model_list):
    demo = Provider(1, "demo", "demo", ProviderSettings(), ())
    worker.snapshot = replace(worker.snapshot, providers={"demo": demo}, provider_by_id={1: demo})
    seen = len(vendor.seen)
    assert names(model_list.aggregated(worker.caller, worker.snapshot, CHAT)) == ["demo/demo-1"]
    assert [card.id for card in model_list.fetch_offers(demo)] == ["demo-1"]
    assert listings(vendor, seen) == []


def test_a_provider_without_credentials_is_not_called(worker, vendor, model_list):
    serve(worker, "openai_chat", credentials=0)
    seen = len(vendor.seen)
    assert model_list.aggregated(worker.caller, worker.snapshot, CHAT) == []
    assert listings(vendor, seen) == []


# -- one model -----------------------------------------------------------------------------------------------------


def test_a_listed_model_is_found_by_every_name_that_a_call_accepts(worker, model_list):
    serve(worker, "openai_chat")
    find = partial(model_list.find, worker.caller, worker.snapshot)
    assert find(None, "p1/gpt-4.1-mini", CHAT).id == "gpt-4.1-mini"
    assert find("p1", "gpt-4.1-mini", CHAT).id == "gpt-4.1-mini"
    worker.snapshot = replace(worker.snapshot, aliases={"chat": Alias("chat", (Target(1, "x"),), None)})
    assert model_list.find(worker.caller, worker.snapshot, None, "chat", CHAT) == ModelCard("chat", owned_by="p1")


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_model_that_no_list_has_is_fetched(worker, vendor, model_list, is_wrapped):
    serve(worker, "openai_chat")
    card = {"id": "ft:gpt", "object": "model", "created": 7, "owned_by": "me"}
    vendor.scripts["ft:gpt"] = vendor.scripts["ft"] = answers(200, dumps({"data": card} if is_wrapped else card))
    try:
        found = model_list.find(worker.caller, worker.snapshot, "p1", "ft:gpt", CHAT)
    finally:
        del vendor.scripts["ft:gpt"], vendor.scripts["ft"]
    assert (found.id, found.owned_by) == ("ft:gpt", "me")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (answers(404, b"{}"), NotFound),
        (answers(500, b"{}"), UpstreamError),
        (answers(200, b"<html>"), UpstreamError),
        (answers(200, b"{}"), UpstreamError),
        (sends("close"), UpstreamError),
    ],
    ids=["unknown", "error", "html", "no model", "closed"],
)
def test_a_model_that_cannot_be_fetched_is_an_error_with_the_providers_name(worker, vendor, model_list, script, error):
    serve(worker, "openai_chat")
    vendor.scripts["lost"] = script
    try:
        with pytest.raises(error) as caught:
            model_list.find(worker.caller, worker.snapshot, "p1", "lost", CHAT)
    finally:
        del vendor.scripts["lost"]
    assert caught.value.headers["x-gproxy-provider"] == "p1"


def test_a_model_without_permission_is_forbidden_before_anything_is_sent(worker, vendor, model_list):
    serve(worker, "openai_chat")
    seen = len(vendor.seen)
    with pytest.raises(Forbidden):
        model_list.find(replace(worker.caller, grants=granted((1, "gpt-*"))), worker.snapshot, "p1", "o3", CHAT)
    assert listings(vendor, seen) == []


@pytest.mark.parametrize(("how", "error"), [("local", NotFound), ("unsupported", Unsupported)])
def test_a_routing_document_decides_whether_a_model_is_fetched(worker, vendor, model_list, how, error):
    serve(worker, "openai_chat")
    routed(worker, model_list="local", model_get=how)
    seen = len(vendor.seen)
    with pytest.raises(error):
        model_list.find(worker.caller, worker.snapshot, "p1", "lost", CHAT)
    assert listings(vendor, seen) == []


# -- what an administrator fetches ---------------------------------------------------------------------------------


def test_a_fetched_list_is_current_and_its_error_names_the_provider(worker, vendor, model_list):
    serve(worker, "openai_chat")
    provider = worker.snapshot.providers["p1"]
    seen = len(vendor.seen)
    for _ in range(2):
        assert [card.id for card in model_list.fetch_offers(provider)] == ["gpt-4.1-mini"]
    assert len(listings(vendor, seen)) == 2
    vendor.scripts[""] = answers(500, b"{}")
    with pytest.raises(UpstreamError, match="answered 500") as caught:
        model_list.fetch_offers(provider)
    assert caught.value.headers["x-gproxy-provider"] == "p1"


def test_a_list_without_a_credential_cannot_be_fetched(worker, model_list):
    serve(worker, "openai_chat", credentials=0)
    with pytest.raises(NoCredential):
        model_list.fetch_offers(worker.snapshot.providers["p1"])
