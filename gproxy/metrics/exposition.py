"""Metrics as text for Prometheus, format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from gproxy.metrics.definitions import HISTOGRAM, Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def write(families: Iterable[Family], totals: Mapping[tuple[str, tuple[str, ...], int], Sequence[float]]) -> str:
    """The families with all their series. Series of another version with other labels or buckets are left out."""
    by_family: dict[tuple[str, int], list[tuple[tuple[str, ...], Sequence[float]]]] = {}
    for (name, labels, width), values in totals.items():
        by_family.setdefault((name, width), []).append((labels, values))
    lines: list[str] = []
    for family in families:
        lines += (f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}")
        for labels, values in sorted(by_family.get((family.name, family.width), [])):
            if len(labels) == len(family.labels):
                lines += _samples(family, _pairs(family, labels), values)
    lines.append("")
    return "\n".join(lines)


def _pairs(family: Family, labels: tuple[str, ...]) -> str:
    """The labels of a series: `a="b",c="d"`."""
    named = zip(family.labels, labels, strict=True)
    return ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in named)


def _samples(family: Family, pairs: str, values: Sequence[float]) -> Iterator[str]:
    if family.kind != HISTOGRAM:
        value = _number(values[0] / family.scale)
        yield f"{family.name}{{{pairs}}} {value}" if pairs else f"{family.name} {value}"
        return
    *buckets, total = values
    prefix = pairs and f"{pairs},"
    counts = list(accumulate(buckets))
    for bound, count in zip((*map(_number, family.bucket_bounds), "+Inf"), counts, strict=True):
        yield f'{family.name}_bucket{{{prefix}le="{bound}"}} {_number(count)}'
    yield f"{family.name}_sum{{{pairs}}} {_number(total)}"
    yield f"{family.name}_count{{{pairs}}} {_number(counts[-1])}"


def _number(value: float) -> str:
    """Whole numbers without a decimal point, others with all digits of the float."""
    return str(int(value)) if value == int(value) else repr(value)
