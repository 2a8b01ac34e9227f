"""The counts of all workers in Prometheus's text format."""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from service.telemetry.build_info import build_info
from service.telemetry.counters import Definition, Snapshot, Values, add_values
from service.telemetry.metrics import COUNTS, GAUGES


class PrometheusCollector(Collector):
    """The sum over workers."""

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._values: Values = {}
        for snapshot in snapshots:
            add_values(self._values, snapshot.counts)
            add_values(self._values, snapshot.gauges)

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The whole text in the format requested by the header `Accept`, and its content type."""
        try:
            encoder, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it fails on invalid versions
            encoder, content_type = choose_encoder("")
        return encoder(self), content_type

    def collect(self) -> Iterator[Metric]:
        """The metrics in the form of prometheus_client."""
        for definition in COUNTS:
            yield self._histogram(definition) if definition.buckets else self._numbers(CounterMetricFamily, definition)
        for definition in GAUGES:
            yield self._numbers(GaugeMetricFamily, definition)
        info = build_info()
        build = GaugeMetricFamily("convscope_build_info", "Always 1; the labels have the versions.", labels=[*info])
        build.add_metric([*info.values()], 1)
        yield build

    def _numbers(
        self, kind: type[CounterMetricFamily] | type[GaugeMetricFamily], definition: Definition
    ) -> CounterMetricFamily | GaugeMetricFamily:
        family = kind(definition.name, definition.text, labels=definition.labels)
        for labels, (value,) in sorted(self._values.get(definition.name, {}).items()):
            family.add_metric(labels, value)
        return family

    def _histogram(self, definition: Definition) -> HistogramMetricFamily:
        family = HistogramMetricFamily(definition.name, definition.text, labels=definition.labels)
        bounds = [*(str(float(bound)) for bound in definition.buckets), "+Inf"]
        for labels, (total, *counts) in sorted(self._values.get(definition.name, {}).items()):
            family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return family
