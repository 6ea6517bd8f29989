"""What names a conversation, so that its calls find the credential whose prompt cache knows it.

Its beginning, which every later call repeats byte for byte: instructions, tools, and the first messages. OpenAI's own
name for it goes before: https://platform.openai.com/docs/guides/prompt-caching.
"""

from hashlib import blake2b

from gproxy.protocols import raw_json
from gproxy.protocols.hub import RequestHead

GIVEN = "prompt_cache_key"
# Of any protocol; each has some of them.
BEGINNING = ("tools", "system", "instructions", "prompt", "systemInstruction", "system_instruction", "cachedContent")
TURNS = ("messages", "input", "contents")
# The instructions of chat are a message of their own, before the first of the user.
MAX_TURNS = 2


def key(asked: RequestHead, model: str) -> bytes:
    body = asked.body or {}
    hashed = blake2b(model.encode(), digest_size=16)
    if GIVEN in body and bytes(body[GIVEN]) not in raw_json.NULLS:
        hashed.update(bytes(body[GIVEN]))
        return hashed.digest()
    for name in BEGINNING:
        if name in body:
            _add(hashed, name, bytes(body[name]))
    for name in TURNS:
        for turn in _first_turns(body.get(name)):
            _add(hashed, name, turn)
    return hashed.digest()


def _first_turns(raw) -> list[bytes]:
    """What the first turns hold. A text alone is the only one there is."""
    if raw is None:
        return []
    turns = raw_json.find_list(bytes(raw))
    return [bytes(raw)] if turns is None else [bytes(turn) for turn in turns[: _until_user(turns)]]


def _until_user(turns: list) -> int:
    """Up to the first of the user: what follows it is not there in the first call."""
    for n, turn in enumerate(turns[:MAX_TURNS]):
        found = raw_json.find(bytes(turn)) or {}
        if bytes(found.get("role", b"")) == b'"user"':
            return n + 1
    return 1


def _add(hashed, name: str, content: bytes) -> None:
    hashed.update(f"\0{name}\0{len(content)}\0".encode())
    hashed.update(content)
