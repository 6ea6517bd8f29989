"""Metrics as text: Prometheus's own parser reads back what was counted."""

from prometheus_client.parser import text_string_to_metric_families

from gproxy.metrics.definitions import COUNTER, GAUGE, HISTOGRAM, Family
from gproxy.metrics.exposition import write

QUESTIONS = Family("asked_total", COUNTER, "How often.", ("who", "what"))
OPEN = Family("open", GAUGE, "How many.")
SPENT = Family("spent_usd_total", COUNTER, "Money.", scale=10**9)
TOOK = Family("took_seconds", HISTOGRAM, "How long.", ("who",), (0.5, 1.0, 2.5))
NASTY = 'a "quoted" \\ name\nof two lines, ünd mehr'


def read(text: str) -> dict:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_and_gauges_are_read_back():
    text = write(
        (QUESTIONS, OPEN, SPENT),
        {
            ("asked_total", ("b", NASTY), 1): [2.0],
            ("asked_total", ("a", ""), 1): [1e15],
            ("open", (), 1): [0.5],
            ("spent_usd_total", (), 1): [68_800.0],
        },
    )
    assert read(text) == {
        ("asked_total", (("what", ""), ("who", "a"))): 1e15,
        ("asked_total", (("what", NASTY), ("who", "b"))): 2,
        ("open", ()): 0.5,
        ("spent_usd_total", ()): 0.0000688,
    }
    assert text.startswith("# HELP asked_total How often.\n# TYPE asked_total counter\nasked_total{")
    assert text.endswith("\n") and "\n\n" not in text


def test_the_buckets_of_a_histogram_are_cumulative():
    text = write((TOOK,), {("took_seconds", ("a",), 5): [1.0, 2.0, 0.0, 4.0, 12.25]})
    (family,) = text_string_to_metric_families(text)
    assert family.type == "histogram"
    assert [(sample.name, sample.labels.get("le"), sample.value) for sample in family.samples] == [
        ("took_seconds_bucket", "0.5", 1),
        ("took_seconds_bucket", "1", 3),
        ("took_seconds_bucket", "2.5", 3),
        ("took_seconds_bucket", "+Inf", 7),
        ("took_seconds_sum", None, 12.25),
        ("took_seconds_count", None, 7),
    ]


def test_series_of_another_version_are_left_out():
    totals = {
        ("asked_total", ("a",), 1): [1.0],
        ("took_seconds", ("a",), 4): [1.0, 1.0, 1.0, 1.0],
        ("gone_total", (), 1): [1.0],
    }
    assert read(write((QUESTIONS, TOOK), totals)) == {}


def test_the_exact_text_of_every_kind_of_family():
    totals = {
        ("asked_total", ("b", NASTY), 1): [2.0],
        ("asked_total", ("a", ""), 1): [1e15],
        ("open", (), 1): [0.5],
        ("spent_usd_total", (), 1): [68_800.0],
        ("took_seconds", ("a",), 5): [1.0, 2.0, 0.0, 4.0, 12.25],
    }
    assert write((QUESTIONS, OPEN, SPENT, TOOK), totals) == (
        "# HELP asked_total How often.\n"
        "# TYPE asked_total counter\n"
        'asked_total{who="a",what=""} 1000000000000000\n'
        'asked_total{who="b",what="a \\"quoted\\" \\\\ name\\nof two lines, ünd mehr"} 2\n'
        "# HELP open How many.\n"
        "# TYPE open gauge\n"
        "open 0.5\n"
        "# HELP spent_usd_total Money.\n"
        "# TYPE spent_usd_total counter\n"
        "spent_usd_total 6.88e-05\n"
        "# HELP took_seconds How long.\n"
        "# TYPE took_seconds histogram\n"
        'took_seconds_bucket{who="a",le="0.5"} 1\n'
        'took_seconds_bucket{who="a",le="1"} 3\n'
        'took_seconds_bucket{who="a",le="2.5"} 3\n'
        'took_seconds_bucket{who="a",le="+Inf"} 7\n'
        'took_seconds_sum{who="a"} 12.25\n'
        'took_seconds_count{who="a"} 7\n'
    )
