"""Usage times price, in integer nano-USD. Pure; computed in Decimal, rounded half up once."""

from decimal import ROUND_HALF_UP, Decimal

from gproxy.accounting.prices import Price, Tier
from gproxy.protocols.hub import Usage

NANO = 1_000_000_000
# USD per million tokens times tokens, in nano-USD
PER_TOKEN = 1_000
ZERO = Decimal(0)


def cost(usage: Usage, price: Price) -> int:
    """What the call costs, in nano-USD. A class without a rate of its own is charged as the one it came from."""
    total = (price.each_call or ZERO) * NANO
    if tier := _tier(price.tiers, usage.prompt_tokens):
        fresh = _or(tier.input, ZERO)
        write = _or(tier.cache_write, _or(tier.cache_write_5m, fresh))
        for tokens, rate, otherwise in (
            (usage.input_tokens, fresh, ZERO),
            (usage.output_tokens, tier.output, ZERO),
            (usage.cache_read_tokens, tier.cache_read, fresh),
            (usage.cache_write_tokens, write, ZERO),
            (usage.cache_write_5m_tokens, tier.cache_write_5m, write),
            (usage.cache_write_1h_tokens, tier.cache_write_1h, write),
        ):
            if tokens:
                total += tokens * _or(rate, otherwise) * PER_TOKEN
    return int(total.quantize(Decimal(1), ROUND_HALF_UP))


def _or(rate: Decimal | None, otherwise: Decimal) -> Decimal:
    """The rate if one is told; 0 is one."""
    return otherwise if rate is None else rate


def _tier(tiers: tuple[Tier, ...], prompt_tokens: int) -> Tier | None:
    """The first tier that reaches as far as this prompt, else the last."""
    return next((tier for tier in tiers if prompt_tokens <= tier.up_to), tiers[-1] if tiers else None)


def usd(nano: int) -> Decimal:
    """The same money in USD, with at most nine decimals."""
    return Decimal(nano) / NANO
