"""The key of a conversation, by which its calls find the credential whose prompt cache has it.

The key is a digest of the beginning, which every later call repeats byte for byte: instructions, tools and the first
messages. OpenAI's own cache key has priority: https://platform.openai.com/docs/guides/prompt-caching.
"""

from hashlib import blake2b

from gproxy.protocols import raw_json
from gproxy.protocols.hub import RequestHead

EXPLICIT_KEY = "prompt_cache_key"
# Fields of all protocols; each protocol has some of them.
BEGINNING_FIELDS = (
    "tools",
    "system",
    "instructions",
    "prompt",
    "systemInstruction",
    "system_instruction",
    "cachedContent",
)
TURN_FIELDS = ("messages", "input", "contents")
# In OpenAI Chat the instructions are a message of their own, before the first one of the user.
MAX_TURNS = 2


def key(requested: RequestHead, model: str) -> bytes:
    """Returns the 16-byte key of the conversation that a request belongs to."""
    body = requested.body or {}
    hashed = blake2b(model.encode(), digest_size=16)
    if EXPLICIT_KEY in body and bytes(body[EXPLICIT_KEY]) not in raw_json.NULLS:
        hashed.update(bytes(body[EXPLICIT_KEY]))
        return hashed.digest()
    for name in BEGINNING_FIELDS:
        if name in body:
            _add(hashed, name, bytes(body[name]))
    for name in TURN_FIELDS:
        for turn in _first_turns(body.get(name)):
            _add(hashed, name, turn)
    return hashed.digest()


def _first_turns(raw) -> list[bytes]:
    """Returns the raw JSON of the first turns; a string instead of a list is the only turn."""
    if raw is None:
        return []
    turns = raw_json.find_list(bytes(raw))
    return [bytes(raw)] if turns is None else [bytes(turn) for turn in turns[: _count_until_user(turns)]]


def _count_until_user(turns: list) -> int:
    """Returns the number of turns up to the first one of the user; the first call does not have later ones."""
    for n, turn in enumerate(turns[:MAX_TURNS]):
        found = raw_json.find(bytes(turn)) or {}
        if bytes(found.get("role", b"")) == b'"user"':
            return n + 1
    return 1


def _add(hashed, name: str, content: bytes) -> None:
    hashed.update(f"\0{name}\0{len(content)}\0".encode())
    hashed.update(content)
