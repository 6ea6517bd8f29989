"""Usage times price, in integer nano-USD. Pure; computed in Decimal, rounded half up once."""

from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from math import ceil

from gproxy.accounting.prices import Price, Tier, charged
from gproxy.protocols.hub import Usage
from gproxy.units import NANO

# USD per million tokens times tokens, in nano-USD
PER_TOKEN = 1_000
ZERO, ONE = Decimal(0), Decimal(1)
# More digits than any count, rate and sum of them has together: nothing is rounded on the way.
EXACT = Context(prec=100)


def cost(usage: Usage, price: Price, mode: str = "") -> int:
    """What a call costs that asked for this mode, in nano-USD.

    A class without a rate of its own is charged as the one it is a part of or came from, a tool without one not at all.
    """
    rates = price.rates(charged(mode, usage.tier))
    with localcontext(EXACT):
        total = (rates.each_call or ZERO) * NANO
        for name, number in usage.tool_calls:
            total += number * price.tools.get(name, ZERO) * NANO
        if tier := _tier(rates.tiers, usage.prompt_tokens):
            total += sum(tokens * rate for tokens, rate in _parts(usage, tier) if tokens) * PER_TOKEN
        return _rounded(total)


def upper_bound(
    price: Price, mode: str, input_tokens: int, output_tokens: int, may_cache: bool, has_media: bool = False
) -> int:
    """The most that a call of so many tokens can cost before its tools, in nano-USD.

    What the tokens will be is not known yet: each is taken for the dearest that it may be. Input may be sound or
    pictures only where the request has some in it (`has_media`), and written to a cache where it asks for that.
    """
    rates = price.rates(mode)
    total = rates.each_call * NANO if rates.each_call else ZERO
    if tier := _tier(rates.tiers, input_tokens):
        fresh, output = tier.input or ZERO, tier.output or ZERO
        if has_media:
            fresh = _dearest(fresh, tier.audio_input, tier.image_input)
        if may_cache:
            fresh = _dearest(fresh, tier.cache_write, tier.cache_write_5m, tier.cache_write_1h)
        if tier.audio_output or tier.image_output:
            output = _dearest(output, tier.audio_output, tier.image_output)
        total += (input_tokens * fresh + output_tokens * output) * PER_TOKEN
    return ceil(total)


def _parts(usage: Usage, tier: Tier) -> Iterator[tuple[int, Decimal]]:
    """All tokens in parts that share no token, each with its rate."""
    fresh, output = _or(tier.input, ZERO), _or(tier.output, ZERO)
    read = _or(tier.cache_read, fresh)
    write = _or(tier.cache_write, _or(tier.cache_write_5m, fresh))
    yield usage.input_tokens - usage.audio_input_tokens - usage.image_input_tokens, fresh
    yield usage.audio_input_tokens, _or(tier.audio_input, fresh)
    yield usage.image_input_tokens, _or(tier.image_input, fresh)
    yield usage.cache_read_tokens - usage.audio_cache_read_tokens, read
    yield usage.audio_cache_read_tokens, _or(tier.audio_cache_read, read)
    yield usage.cache_write_tokens, write
    yield usage.cache_write_5m_tokens, _or(tier.cache_write_5m, write)
    yield usage.cache_write_1h_tokens, _or(tier.cache_write_1h, write)
    yield usage.output_tokens - usage.audio_output_tokens - usage.image_output_tokens, output
    yield usage.audio_output_tokens, _or(tier.audio_output, output)
    yield usage.image_output_tokens, _or(tier.image_output, output)


def _or(rate: Decimal | None, otherwise: Decimal) -> Decimal:
    """The rate if one is told; 0 is one."""
    return otherwise if rate is None else rate


def _dearest(*rates: Decimal | None) -> Decimal:
    return max((rate for rate in rates if rate is not None), default=ZERO)


def _tier(tiers: tuple[Tier, ...], prompt_tokens: int) -> Tier | None:
    """The first tier that reaches as far as this prompt, else the last."""
    return next((tier for tier in tiers if prompt_tokens <= tier.up_to), tiers[-1] if tiers else None)


def _rounded(nano: Decimal) -> int:
    return int(nano.quantize(ONE, ROUND_HALF_UP))
