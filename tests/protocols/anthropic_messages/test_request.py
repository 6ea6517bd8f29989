"""Anthropic requests: blocks that few clients send, and what the vendor gets."""

import pytest

from gproxy.errors import BadRequest
from gproxy.protocols import hub
from gproxy.protocols.anthropic_messages import request as messages
from gproxy.protocols.losses import Losses
from tests.conversations import MODEL, PNG, PROVIDER, Q


def read(content: list, **fields) -> tuple[hub.Request, set[str]]:
    losses = Losses()
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
    return messages.read_request(body, losses), set(losses.names())


def write(*turns: hub.Turn, **more) -> tuple[dict, set[str]]:
    losses = Losses()
    request = hub.Request(turns or (Q,), **{"max_tokens": 9, **more})
    return messages.write_request(request, hub.Target(PROVIDER, MODEL), losses), set(losses.names())


TEXT = {"type": "text", "text": "hi"}


def test_a_thread_that_the_vendor_keeps_is_refused():
    with pytest.raises(BadRequest, match=": thread: the conversation is kept by the vendor"):
        read([TEXT], thread={"id": "t"})


def test_blank_texts_of_the_system_are_left_out():
    system = [{"type": "text", "text": " \n"}, {"type": "text", "text": "Be brief."}]
    assert read([TEXT], system=system)[0].system == ("Be brief.",)
    assert read([TEXT], system=" ")[0].system == ()


def test_a_search_result_becomes_text_with_its_title_and_source():
    found = {
        "type": "search_result",
        "title": "Towers",
        "source": "https://a.com",
        "content": [{"type": "text", "text": "It is"}, {"type": "text", "text": "tall."}],
    }
    request, lost = read([TEXT, found, {**found, "title": None}])
    assert [block.text for block in request.turns[0].blocks] == [
        "hi",
        "Towers\nhttps://a.com\nIt is\ntall.",
        "https://a.com\nIt is\ntall.",
    ]
    assert lost == {"messages.content.search_result"}


@pytest.mark.parametrize("kind", ["image", "document"])
def test_a_file_that_the_vendor_keeps_is_named_by_its_id(kind):
    request, lost = read([TEXT, {"type": kind, "source": {"type": "file", "file_id": "file_1"}}])
    (_, media) = request.turns[0].blocks
    assert (media.kind, media.file_id, lost) == ("image" if kind == "image" else "file", "file_1", set())


@pytest.mark.parametrize("text", [" ", "\n\t"])
def test_a_blank_refusal_is_a_loss_and_no_block(text):
    body, lost = write(Q, hub.Turn("assistant", (hub.Refusal(text), hub.Text("a"))), Q)
    assert (body["messages"][1]["content"], lost) == ([{"type": "text", "text": "a"}], {"refusal"})


def test_a_prefill_has_no_white_space_at_its_end():
    body, _ = write(Q, hub.Turn("assistant", (hub.Text("It is \n"),)))
    assert body["messages"][-1]["content"] == [{"type": "text", "text": "It is"}]


def test_a_file_of_the_user_is_sent_and_one_of_the_assistant_is_a_loss():
    image = hub.Media("image", "image/png", PNG)
    body, lost = write(hub.Turn("user", (image,)), hub.Turn("assistant", (hub.Text("ok"), image)), Q)
    assert body["messages"][0]["content"][0]["source"] == {"type": "base64", "media_type": "image/png", "data": PNG}
    assert (body["messages"][1]["content"], lost) == ([{"type": "text", "text": "ok"}], {"image"})


def test_the_vendors_own_tools_are_sent_by_their_versions():
    body, lost = write(tools=(hub.CodeExecution(), hub.WebFetch()))
    assert [tool["name"] for tool in body["tools"]] == ["code_execution", "web_fetch"]
    assert lost == set()
