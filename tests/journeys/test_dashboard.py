"""The dashboard shows what /metrics has, and nothing else."""

import json
import re
from collections.abc import Iterator

import pytest

from gproxy.metrics import definitions
from tests.gateway import ROOT
from tests.scraping import scrape

TEXT = (ROOT / "conf" / "grafana-dashboard.json").read_text()
DASHBOARD = json.loads(TEXT)
NAME = re.compile(r"\bgproxy_\w+")
# One that a panel shows or a variable asks for, with its text in braces.
SELECTED = re.compile(r"\b(gproxy_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
BY = re.compile(r"by \(([^)]*)\)")
FAMILIES = {family.name: family for family in definitions.FAMILIES}


def family_of(sample: str) -> definitions.Family:
    if sample in FAMILIES:
        return FAMILIES[sample]
    name = re.sub(r"_(bucket|sum|count)$", "", sample)
    assert FAMILIES[name].kind == definitions.HISTOGRAM, sample
    return FAMILIES[name]


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def test_every_metric_and_label_that_it_names_is_one_that_metrics_has(gateway):
    scraped = set(re.findall(r"^# TYPE (\S+)", scrape(gateway).text, re.MULTILINE))
    assert {family_of(name).name for name in NAME.findall(TEXT)} <= scraped
    for expression in expressions():
        shown = [family_of(name) for name, _ in SELECTED.findall(expression)]
        assert shown, expression
        for name, selector in SELECTED.findall(expression):
            assert set(LABEL.findall(selector)) <= set(family_of(name).labels), expression
        for grouped in BY.findall(expression):
            known = {label for family in shown for label in (*family.labels, "le")}
            assert set(grouped.split(", ")) <= known, expression


def test_every_metric_is_shown():
    shown = {family_of(name) for expression in expressions() for name in NAME.findall(expression)}
    assert shown == set(definitions.FAMILIES)


@pytest.mark.parametrize("family", [family for family in definitions.FAMILIES if family.kind == definitions.COUNTER])
def test_a_counter_is_shown_as_a_rate_only(family):
    for expression in expressions():
        assert len(re.findall(rf"\b{family.name}\b", expression)) == len(
            re.findall(rf"(?:rate|increase)\({family.name}\b", expression)
        )


def test_the_document_has_what_grafana_asks_for():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        for expression in (target["expr"] for target in panel.get("targets", ())):
            assert all(expression.count(a) == expression.count(b) for a, b in ("()", "[]", "{}"))
