"""What a translation lost: by the sender's names, each once, in a fixed order, and nothing that is no name."""

import pytest

from gproxy import protocols
from gproxy.protocols.losses import MAX_LOSSES, Losses


def test_a_field_of_the_hub_has_the_senders_name():
    losses = Losses({"stop": "stop_sequences", "n": "generationConfig.candidateCount"})
    for field in ("stop", "seed", "n", "stop"):
        losses.lose(field)
    losses.report("stop")
    assert losses.names() == ("generationConfig.candidateCount", "seed", "stop", "stop_sequences")
    assert losses.wire_name("stop") == "stop_sequences"
    assert losses.wire_name("seed") == "seed"


def test_without_names_the_hubs_own_are_told():
    losses = Losses()
    losses.lose("stop")
    assert losses.names() == ("stop",)
    assert Losses().names() == ()


@pytest.mark.parametrize(
    "name", ["a", "tools[0].parameters.$ref", "messages.content.input_audio", "x-y_z", "a" * 80, "A.b[12]"]
)
def test_a_name_is_told(name):
    losses = Losses()
    losses.report(name)
    assert losses.names() == (name,)


@pytest.mark.parametrize(
    "name", ["", "a b", "a,b", "a\r\nSet-Cookie: x", "größe", "a" * 81, "a\0", "a\n", '"', "<script>", "a;b", "a=b"]
)
def test_what_a_client_named_otherwise_is_not_repeated(name):
    losses = Losses()
    losses.report(name)
    assert losses.names() == ("unnamed",)


def test_there_are_only_so_many():
    losses = Losses()
    for number in range(MAX_LOSSES * 3):
        losses.report(f"field{number:03}")
    assert losses.names() == tuple(f"field{number:03}" for number in range(MAX_LOSSES))


@pytest.mark.parametrize("protocol", protocols.load().values(), ids=protocols.load())
def test_every_name_of_every_protocol_can_be_told(protocol):
    losses = Losses(protocol.NAMES)
    for field, name in protocol.NAMES.items():
        losses.lose(field)
        assert name in losses.names() or len(losses.names()) == MAX_LOSSES
    assert "unnamed" not in losses.names()
