"""Metrics as text for Prometheus, format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from gproxy.metrics.definitions import HISTOGRAM, Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def write(families: Iterable[Family], sums: Mapping[tuple[str, tuple[str, ...], int], Sequence[float]]) -> str:
    """The families with all their series. What another version counted otherwise is left out."""
    by_family: dict[tuple[str, int], list] = {}
    for (name, labels, width), values in sums.items():
        by_family.setdefault((name, width), []).append((labels, values))
    lines: list[str] = []
    for family in families:
        lines += (f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}")
        for labels, values in sorted(by_family.get((family.name, family.width), ())):
            if len(labels) == len(family.labels):
                lines += _samples(family, _pairs(family, labels), values)
    lines.append("")
    return "\n".join(lines)


def _pairs(family: Family, labels: tuple[str, ...]) -> str:
    """`a="b",c="d"`"""
    named = zip(family.labels, labels, strict=True)
    return ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in named)


def _samples(family: Family, pairs: str, values: Sequence[float]) -> Iterator[str]:
    if family.kind != HISTOGRAM:
        yield (
            f"{family.name}{{{pairs}}} {_number(values[0] / family.scale)}"
            if pairs
            else (f"{family.name} {_number(values[0] / family.scale)}")
        )
        return
    *buckets, total = values
    before = pairs and f"{pairs},"
    counts = list(accumulate(buckets))
    for bound, count in zip((*map(_number, family.bounds), "+Inf"), counts, strict=True):
        yield f'{family.name}_bucket{{{before}le="{bound}"}} {_number(count)}'
    yield f"{family.name}_sum{{{pairs}}} {_number(total)}"
    yield f"{family.name}_count{{{pairs}}} {_number(counts[-1])}"


def _number(value: float) -> str:
    """Without an end that says nothing, and with all digits of a float."""
    return str(int(value)) if value == int(value) else repr(value)
