"""Model lists: which calls share one fetch of a provider's list."""

from dataclasses import replace

import gevent
import pytest
from gevent.event import Event

from gproxy.errors import UpstreamError
from gproxy.protocols.hub import ModelCard
from gproxy.relay.model_list import ModelList
from gproxy.snapshot import Credential, Provider, ProviderSettings

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
