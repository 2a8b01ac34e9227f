"""What /metrics says, read by prometheus_client's own parsers."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str) -> dict[Sample, float]:
    """Every sample by name and labels."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(values) == len(found), "a series is there twice"
    return values


def scrape(client: Any, url: str = "") -> dict[Sample, float]:
    """The samples of a server now; `client` is httpx or a client with a base of its own."""
    answer = client.get(f"{url}/metrics")
    assert answer.status_code == 200, answer.text
    return samples(answer.text)


def total(values: dict[Sample, float], name: str, **labels: str) -> float:
    """The sum over every series of a metric that has these labels."""
    return sum(value for (found, own), value in values.items() if found == name and labels.items() <= dict(own).items())
