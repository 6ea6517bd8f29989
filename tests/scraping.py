"""Scrapes a gateway's /metrics and reads the text with Prometheus's own parser."""

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway import ADMIN, Gateway


class Scraped(dict[tuple[str, frozenset], float]):
    """Values by sample name and labels."""

    def __init__(self, text: str):
        super().__init__()
        self.text = text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self, f"{key} appears twice"
                self[key] = sample.value

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name with these label values."""
        wanted = labels.items()
        return sum(value for (found, has), value in self.items() if found == name and wanted <= dict(has).items())

    def values(self, name: str, label: str) -> set[str]:
        """The values of this label."""
        return {dict(has)[label] for found, has in self if found == name}

    def series(self, name: str) -> int:
        """The number of samples of this name."""
        return sum(found == name for found, _ in self)


def scrape(gateway: Gateway) -> Scraped:
    reply = gateway.get("/metrics", ADMIN)
    assert reply.status == 200, reply.body
    return Scraped(reply.body.decode())
