"""The neutral vocabulary between protocols: what a call used, and what a model is."""

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call in disjoint classes, so that nothing is priced twice. None is ever negative.

    `input_tokens` are the uncached ones; `reasoning_tokens` are a part of `output_tokens`.
    `cache_write_tokens` are writes whose lifetime the vendor did not tell.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """All that was sent, cached or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_creation_tokens

    @property
    def cache_creation_tokens(self) -> int:
        return self.cache_write_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens


class Ask(NamedTuple):
    """What a request body asks for, seen without reading the rest of it."""

    model: str | None
    is_stream: bool
    wants_usage: bool  # the client asked for usage in its stream
    end_user: str | None
    body: object  # the protocol's own view of the body, to be given back to its functions


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of a model list. `created` in seconds since the epoch; `raw` is the vendor's own object."""

    id: str
    display_name: str | None = None
    created: int | None = None
    owned_by: str | None = None
    raw: dict | None = field(default=None, repr=False)
    protocol: str | None = None  # in whose shape `raw` is


# Beyond any call; below it every sum and every price of one fits into 63 bits.
MOST_TOKENS = 10**12


def count(value: object) -> int:
    """A token count off the wire: anything that is no positive whole number, or no possible count, counts as none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TOKENS else 0


def items(value: object) -> list:
    """A list off the wire, or an empty one in its place."""
    return value if isinstance(value, list) else []


def part(value: object) -> dict:
    """An object off the wire, or an empty one in its place."""
    return value if isinstance(value, dict) else {}


TEXT_FIELDS = frozenset(
    ("content", "text", "reasoning_content", "reasoning", "refusal", "arguments", "thinking", "partial_json", "summary")
)


def text_bytes(value: object, inside: bool = False) -> int:
    """Bytes of text that a reply delivers, for an estimate where the vendor told no usage."""
    if isinstance(value, str):
        return len(value.encode()) if inside else 0
    if isinstance(value, list):
        return sum(text_bytes(item, inside) for item in value)
    if isinstance(value, dict):
        return sum(text_bytes(item, key in TEXT_FIELDS) for key, item in value.items())
    return 0
