"""Owns how tests read metrics: a scrape becomes a table from name and labels to the number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

if TYPE_CHECKING:
    from httpx import AsyncClient

PREFIX = "ollama_gateway_"


class Scrape:
    """One answer of /metrics. Parsing it fails where it is not what its content type says."""

    def __init__(self, text: str, content_type: str = "text/plain") -> None:
        self.text = text
        parse = parse_openmetrics if "openmetrics" in content_type else parse_text
        self.families = {family.name: family for family in parse(text)}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in self.families.values():
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.samples, f"twice: {key}"
                self.samples[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """The number of one series of the gateway's own; 0 where it is not there."""
        return self.samples.get((PREFIX + name, frozenset(labels.items())), 0.0)

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """All series of a metric of the gateway's own that are not 0, by the values of their labels, sorted by name."""
        found = {}
        for (sample, labels), value in self.samples.items():
            if sample == PREFIX + name and value:
                found[tuple(text for _, text in sorted(labels))] = value
        return found


async def scrape(http: AsyncClient, **fields: str) -> Scrape:
    """What /metrics answers now."""
    answer = await http.get("/metrics", headers=fields)
    assert answer.status_code == 200, (answer.status_code, answer.text)
    return Scrape(answer.text, answer.headers["content-type"])
