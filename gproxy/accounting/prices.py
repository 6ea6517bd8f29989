"""Reads price documents and shipped price files, and finds the price of a call.

A price document has the price fields of a seed's [[models]] and [[model_aliases]]: `price_each_call` in USD per call,
`price_tiers` in USD per million tokens, both also for each mode, and `tool_prices` in USD per call of a tool that the
vendor runs. An unknown model has no price, not a price of zero.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gproxy.snapshot import Alias, Snapshot

SHIPPED = Path(__file__).resolve().parents[2] / "conf" / "prices"
# The model row whose price applies to all models of its provider without a price; not a model itself.
DEFAULT = "default"
# Service tiers with their own price fields, such as `flex_price_tiers`; "" is the mode of all other calls.
MODES = ("flex", "scale", "priority", "batch")
# The rate fields of a price tier, and the token class that each of them prices.
RATES = {
    "price_input_tokens": "input",
    "price_output_tokens": "output",
    "price_cache_read_input_tokens": "cache_read",
    "price_cache_creation_input_tokens": "cache_write",
    "price_cache_creation_input_tokens_5min": "cache_write_5m",
    "price_cache_creation_input_tokens_1h": "cache_write_1h",
    "price_input_audio_tokens": "audio_input",
    "price_input_image_tokens": "image_input",
    "price_output_audio_tokens": "audio_output",
    "price_output_image_tokens": "image_output",
    "price_cache_read_input_audio_tokens": "audio_cache_read",
}


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates in USD per million tokens, for prompts of at most `up_to` tokens. None: no rate is set."""

    up_to: int
    input: Decimal | None = None
    output: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_5m: Decimal | None = None
    cache_write_1h: Decimal | None = None
    audio_input: Decimal | None = None
    image_input: Decimal | None = None
    audio_output: Decimal | None = None
    image_output: Decimal | None = None
    audio_cache_read: Decimal | None = None


class Rates(NamedTuple):
    """The rates of one mode. `each_call` is in USD; the tiers are sorted by `up_to`."""

    each_call: Decimal | None
    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Price:
    """The rates of the default mode and, in `modes`, of modes with their own. `tools` are in USD per call."""

    each_call: Decimal | None
    tiers: tuple[Tier, ...]
    modes: Mapping[str, Rates] = field(default_factory=dict)
    tools: Mapping[str, Decimal] = field(default_factory=dict)

    def rates(self, mode: str) -> Rates:
        return self.modes.get(mode) or Rates(self.each_call, self.tiers)

    def with_defaults(self, other: "Price") -> "Price":
        """This price; a price per call, tiers or a tool that it does not set are taken from the other price."""
        modes = {mode: _with_defaults(self.rates(mode), other.rates(mode)) for mode in {*self.modes, *other.modes}}
        default = _with_defaults(self.rates(""), other.rates(""))
        return Price(*default, modes, {**other.tools, **self.tools})


def _with_defaults(rates: Rates, other: Rates) -> Rates:
    return Rates(other.each_call if rates.each_call is None else rates.each_call, rates.tiers or other.tiers)


class FoundPrice(NamedTuple):
    price: Price
    source: str  # "alias", "model", "shipped" or "default"


def charged_mode(requested: str, served: str) -> str:
    """The mode by which a call is charged: the requested one, else the one that the reply names.

    Without a requested mode a vendor serves the default of its account. A vendor without capacity for a priority call
    serves it in the default mode, which is then charged.
    """
    if requested == "priority" and served == "default":
        return ""
    return requested or (served if served in MODES else "")


def document(fields: Mapping) -> str | None:
    """The price fields of a row as JSON text, None without any. Numbers are written with all their digits."""
    priced = {k: v for k, v in fields.items() if "price" in k and v is not None and v not in ([], {})}
    return json.dumps(priced, default=str, sort_keys=True) if priced else None


@lru_cache(maxsize=4096)
def parse(text: str) -> Price:
    """Reads a stored price document."""
    return read(json.loads(text, parse_float=Decimal))


@lru_cache(maxsize=4096)
def _parse_with_defaults(text: str, default: str) -> Price:
    return parse(text).with_defaults(parse(default))


def read(fields: Mapping) -> Price:
    """Reads the price fields of a row."""
    default = _read_rates(fields, "")
    by_mode = {mode: _read_rates(fields, f"{mode}_") for mode in MODES}
    modes = {mode: _with_defaults(rates, default) for mode, rates in by_mode.items() if rates != NO_RATES}
    tools = {name: Decimal(usd) for name, usd in (fields.get("tool_prices") or {}).items()}
    return Price(*default, modes, tools)


NO_RATES = Rates(None, ())


def _read_rates(fields: Mapping, prefix: str) -> Rates:
    each = fields.get(f"{prefix}price_each_call")
    tiers = map(_read_tier, fields.get(f"{prefix}price_tiers") or ())
    return Rates(None if each is None else Decimal(each), tuple(sorted(tiers, key=lambda tier: tier.up_to)))


def _read_tier(fields: Mapping) -> Tier:
    rates = {name: Decimal(fields[key]) for key, name in RATES.items() if fields.get(key) is not None}
    return Tier(int(fields["input_tokens_up_to"]), **rates)


@lru_cache(maxsize=1)
def shipped() -> Mapping[tuple[str, str], Price]:
    """The prices of the files in `conf/prices`, by (channel, model id). They neither list nor resolve a model."""
    found = {}
    for path in sorted(SHIPPED.glob("*.toml")):
        for row in tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)["models"]:
            found[path.stem, row["model_id"]] = read(row)
    return found


def find(
    snapshot: Snapshot, provider_id: int, channel: str, model: str, alias: Alias | None = None
) -> FoundPrice | None:
    """The price of a call to this target: of its alias, model row, shipped file, or the provider's `default` row.

    The `default` row also provides the prices that a model row does not set. None: the call is not priced.
    """
    if alias is not None and alias.pricing:
        return FoundPrice(parse(alias.pricing), "alias")
    row, default = (snapshot.models.get((provider_id, name)) for name in (model, DEFAULT))
    default_text = default.pricing if default is not None else None
    if row is not None and row.pricing:
        price = _parse_with_defaults(row.pricing, default_text) if default_text else parse(row.pricing)
        return FoundPrice(price, "model")
    if price := shipped().get((channel, model)):
        return FoundPrice(price, "shipped")
    return FoundPrice(parse(default_text), "default") if default_text else None
