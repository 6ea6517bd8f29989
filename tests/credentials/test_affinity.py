"""The key of a conversation: a digest of its beginning, which all of its calls repeat."""

import json

import pytest

from gproxy import protocols
from gproxy.credentials.affinity import key

LOADED = protocols.load()
Q, A, MORE = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "m"})


def of(protocol: str, body: dict, model: str = "m") -> bytes:
    return key(LOADED[protocol].read_head(json.dumps(body).encode()), model)


def chat(*messages: dict, **more) -> dict:
    return {"model": "m", "messages": list(messages), **more}


SYSTEM = {"role": "system", "content": "be brief"}
CONTENT = [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}]
SAME = [
    ("openai_chat", chat(Q), chat(Q, A, MORE)),
    ("openai_chat", chat(SYSTEM, Q), chat(SYSTEM, Q, A, MORE, temperature=1, stream=True)),
    ("anthropic", chat(Q, system="s", max_tokens=1), chat(Q, A, MORE, system="s", max_tokens=9)),
    ("openai_responses", {"input": [Q]}, {"input": [Q, A, MORE]}),
    ("gemini", {"contents": CONTENT[:1]}, {"contents": CONTENT}),
    ("openai_chat", chat(Q, prompt_cache_key="k"), chat(MORE, prompt_cache_key="k")),
]
DIFFERENT = [
    ("openai_chat", chat(Q), chat(MORE)),
    ("openai_chat", chat(Q), chat(SYSTEM, Q)),
    ("openai_chat", chat(SYSTEM, Q), chat(SYSTEM, MORE)),
    ("openai_chat", chat(Q), chat(Q, tools=[{"type": "function", "function": {"name": "f"}}])),
    ("openai_chat", chat(Q, prompt_cache_key="k"), chat(Q, prompt_cache_key="l")),
    ("anthropic", chat(Q, system="s"), chat(Q, system="t")),
    ("openai_responses", {"input": "q"}, {"input": "m"}),
    ("openai_responses", {"input": "q", "instructions": "a"}, {"input": "q", "instructions": "b"}),
    ("gemini", {"contents": CONTENT[:1]}, {"contents": CONTENT[:1], "systemInstruction": {"parts": []}}),
]


@pytest.mark.parametrize(("protocol", "first", "later"), SAME)
def test_later_calls_of_a_conversation_have_the_same_key(protocol, first, later):
    assert of(protocol, first) == of(protocol, later)


@pytest.mark.parametrize(("protocol", "one", "other"), DIFFERENT)
def test_other_beginnings_have_other_keys(protocol, one, other):
    assert of(protocol, one) != of(protocol, other)


def test_each_model_has_keys_of_its_own():
    assert of("openai_chat", chat(Q), "m") != of("openai_chat", chat(Q), "n")


@pytest.mark.parametrize("body", [{}, {"messages": 7}, {"messages": []}, {"messages": [7, "x"]}, {"input": None}])
def test_a_body_without_a_beginning_has_a_key_too(body):
    assert len(of("openai_chat", body)) == 16
