"""The cost of a call from its usage and price, in integer nano-USD. Pure; computed in Decimal, rounded half up once."""

from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from math import ceil
from typing import NamedTuple

from gproxy.accounting.prices import Price, Tier, charged_mode
from gproxy.protocols.hub import Usage
from gproxy.units import NANO

# Nano-USD per token at a rate of 1 USD per million tokens.
PER_TOKEN = 1_000
ZERO, ONE = Decimal(0), Decimal(1)
# More digits than any product and total here can have: no intermediate result is rounded.
EXACT = Context(prec=100)


def cost(usage: Usage, price: Price, mode: str = "") -> int:
    """The cost of a call that requested this mode, in nano-USD.

    A token class without its own rate is charged at the rate of the class that contains it or that it would otherwise
    belong to (see `_parts`); a tool without a price is free.
    """
    rates = price.rates(charged_mode(mode, usage.tier))
    with localcontext(EXACT):
        total = (rates.each_call or ZERO) * NANO
        for name, number in usage.tool_calls:
            total += number * price.tools.get(name, ZERO) * NANO
        if tier := _tier(rates.tiers, usage.prompt_tokens):
            total += sum(tokens * rate for tokens, rate in _parts(usage, tier) if tokens) * PER_TOKEN
        return _rounded(total)


class Features(NamedTuple):
    """What decides which rates of a price a request may be charged: its mode, caching, and media in its input."""

    mode: str = ""
    may_cache: bool = False
    has_media: bool = False


def upper_bound(price: Price, features: Features, input_tokens: int, output_tokens: int) -> int:
    """The maximum cost of a call with these token counts, without tool calls, in nano-USD.

    The classes of the tokens are not known before the call, so each token is priced at the highest rate it may have.
    Input tokens may be audio or images only if the request contains media (`has_media`), and may be written to a cache
    only if the request enables that (`may_cache`).
    """
    rates = price.rates(features.mode)
    total = rates.each_call * NANO if rates.each_call else ZERO
    if tier := _tier(rates.tiers, input_tokens):
        fresh, output = tier.input or ZERO, tier.output or ZERO
        if features.has_media:
            fresh = _highest(fresh, tier.audio_input, tier.image_input)
        if features.may_cache:
            fresh = _highest(fresh, tier.cache_write, tier.cache_write_5m, tier.cache_write_1h)
        if tier.audio_output or tier.image_output:
            output = _highest(output, tier.audio_output, tier.image_output)
        total += (input_tokens * fresh + output_tokens * output) * PER_TOKEN
    return ceil(total)


def _parts(usage: Usage, tier: Tier) -> Iterator[tuple[int, Decimal]]:
    """All tokens in disjoint parts, each with its rate."""
    fresh, output = _rate(tier.input, ZERO), _rate(tier.output, ZERO)
    read = _rate(tier.cache_read, fresh)
    write = _rate(tier.cache_write, _rate(tier.cache_write_5m, fresh))
    yield usage.input_tokens - usage.audio_input_tokens - usage.image_input_tokens, fresh
    yield usage.audio_input_tokens, _rate(tier.audio_input, fresh)
    yield usage.image_input_tokens, _rate(tier.image_input, fresh)
    yield usage.cache_read_tokens - usage.audio_cache_read_tokens, read
    yield usage.audio_cache_read_tokens, _rate(tier.audio_cache_read, read)
    yield usage.cache_write_tokens, write
    yield usage.cache_write_5m_tokens, _rate(tier.cache_write_5m, write)
    yield usage.cache_write_1h_tokens, _rate(tier.cache_write_1h, write)
    yield usage.output_tokens - usage.audio_output_tokens - usage.image_output_tokens, output
    yield usage.audio_output_tokens, _rate(tier.audio_output, output)
    yield usage.image_output_tokens, _rate(tier.image_output, output)


def _rate(rate: Decimal | None, default: Decimal) -> Decimal:
    """The rate if it is set, else the default; a rate of 0 is set."""
    return default if rate is None else rate


def _highest(*rates: Decimal | None) -> Decimal:
    return max((rate for rate in rates if rate is not None), default=ZERO)


def _tier(tiers: tuple[Tier, ...], prompt_tokens: int) -> Tier | None:
    """The first tier whose `up_to` the prompt does not exceed, else the last tier; None without tiers."""
    return next((tier for tier in tiers if prompt_tokens <= tier.up_to), tiers[-1] if tiers else None)


def _rounded(nano: Decimal) -> int:
    return int(nano.quantize(ONE, ROUND_HALF_UP))
