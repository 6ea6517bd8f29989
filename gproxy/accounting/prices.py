"""Prices: reading price documents and shipped price files, and finding the one that applies.

A price document has the fields of a seed's [[models]] (`price_each_call`, `price_tiers` and their flex, scale and
priority variants), USD per call and per million tokens. An unknown model has no price, not a zero one.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gproxy.store.snapshot import Snapshot

SHIPPED = Path(__file__).resolve().parents[2] / "conf" / "prices"
# The model row whose price holds for all models of its provider that have none; not a model itself.
DEFAULT = "default"
MODES = ("", "flex_", "scale_", "priority_")
# A tier's fields, and the token class each of them prices.
RATES = {
    "price_input_tokens": "input",
    "price_output_tokens": "output",
    "price_cache_read_input_tokens": "cache_read",
    "price_cache_creation_input_tokens": "cache_write",
    "price_cache_creation_input_tokens_5min": "cache_write_5m",
    "price_cache_creation_input_tokens_1h": "cache_write_1h",
}


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates in USD per million tokens, for prompts of at most `up_to` tokens. None: not told."""

    up_to: int
    input: Decimal | None = None
    output: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_5m: Decimal | None = None
    cache_write_1h: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """`each_call` in USD. Tiers are sorted by their bound."""

    each_call: Decimal | None
    tiers: tuple[Tier, ...]


class Found(NamedTuple):
    price: Price
    source: str  # "model", "shipped" or "default"


def document(fields: Mapping) -> str | None:
    """The price fields of a model row as JSON text, None when it has none. Numbers stay the text they are."""
    priced = {k: v for k, v in fields.items() if "price" in k and v is not None and v != []}
    return json.dumps(priced, default=str, sort_keys=True) if priced else None


@lru_cache(maxsize=4096)
def parse(text: str) -> Price:
    """A stored price document's default mode."""
    return read(json.loads(text, parse_float=Decimal))


def read(fields: Mapping) -> Price:
    each = fields.get("price_each_call")
    tiers = (
        Tier(
            int(tier["input_tokens_up_to"]),
            **{name: Decimal(tier[key]) for key, name in RATES.items() if tier.get(key) is not None},
        )
        for tier in fields.get("price_tiers") or ()
    )
    ordered = tuple(sorted(tiers, key=lambda tier: tier.up_to))
    return Price(None if each is None else Decimal(each), ordered)


@lru_cache(maxsize=1)
def shipped() -> Mapping[tuple[str, str], Price]:
    """The price files that come with gproxy, by (channel, model id). They neither list nor resolve a model."""
    found = {}
    for path in sorted(SHIPPED.glob("*.toml")):
        for row in tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)["models"]:
            found[path.stem, row["model_id"]] = read(row)
    return found


def find(snapshot: Snapshot, provider_id: int, channel: str, model: str) -> Found | None:
    """What a call to this target is priced by: its model row, the shipped file, the provider's `default` row."""
    row = snapshot.models.get((provider_id, model))
    if row is not None and row.pricing:
        return Found(parse(row.pricing), "model")
    if price := shipped().get((channel, model)):
        return Found(price, "shipped")
    row = snapshot.models.get((provider_id, DEFAULT))
    if row is not None and row.pricing:
        return Found(parse(row.pricing), "default")
    return None
