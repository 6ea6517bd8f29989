"""The losses of a translation: wire names, each once, sorted and well-formed."""

import pytest

from gproxy import protocols
from gproxy.protocols.losses import MAX_LOSSES, Losses


def test_a_field_of_the_hub_is_reported_under_its_wire_name():
    losses = Losses({"stop": "stop_sequences", "n": "generationConfig.candidateCount"})
    for field in ("stop", "seed", "n", "stop"):
        losses.lose(field)
    losses.report("stop")
    assert losses.names() == ("generationConfig.candidateCount", "seed", "stop", "stop_sequences")
    assert losses.wire_name("stop") == "stop_sequences"
    assert losses.wire_name("seed") == "seed"


def test_without_wire_names_the_names_of_the_hub_are_reported():
    losses = Losses()
    losses.lose("stop")
    assert losses.names() == ("stop",)
    assert Losses().names() == ()


@pytest.mark.parametrize(
    "name", ["a", "tools[0].parameters.$ref", "messages.content.input_audio", "x-y_z", "a" * 80, "A.b[12]"]
)
def test_a_well_formed_name_is_reported(name):
    losses = Losses()
    losses.report(name)
    assert losses.names() == (name,)


@pytest.mark.parametrize(
    "name", ["", "a b", "a,b", "a\r\nSet-Cookie: x", "größe", "a" * 81, "a\0", "a\n", '"', "<script>", "a;b", "a=b"]
)
def test_a_malformed_name_is_reported_as_unnamed(name):
    losses = Losses()
    losses.report(name)
    assert losses.names() == ("unnamed",)


def test_the_number_of_losses_is_limited():
    losses = Losses()
    for number in range(MAX_LOSSES * 3):
        losses.report(f"field{number:03}")
    assert losses.names() == tuple(f"field{number:03}" for number in range(MAX_LOSSES))


@pytest.mark.parametrize("protocol", protocols.load().values(), ids=protocols.load())
def test_every_wire_name_of_every_protocol_is_well_formed(protocol):
    losses = Losses(protocol.NAMES)
    for field, name in protocol.NAMES.items():
        losses.lose(field)
        assert name in losses.names() or len(losses.names()) == MAX_LOSSES
    assert "unnamed" not in losses.names()
