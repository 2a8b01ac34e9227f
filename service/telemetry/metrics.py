"""The table of metrics, and a worker's counts."""

from math import isfinite

from models.images.decode import Floats
from service.errors import STATUS
from service.telemetry.counters import Definition, MetricSeries, Series, Values
from service.telemetry.statistics import KEPT, Statistics

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
_MODEL = ("model", "version")

CLASS_LIMIT = 1000
OTHER_CLASS = "other"  # label for classes beyond the limit
INTERNAL, OTHER_CODE = "internal", "other"  # codes of errors outside the table: ours, and BentoML's

COUNTS = tuple(
    Definition(f"convscope_{name}", text, labels, buckets)
    for name, text, labels, buckets in [
        ("requests", "Requests, by route, model and class of status.", ("route", *_MODEL, "status"), ()),
        ("errors", "Error answers, and errors of single images within an answer, by code.", ("code",), ()),
        ("images", "Images classified.", _MODEL, ()),
        ("predictions", "Images by their most probable class.", (*_MODEL, "class"), ()),
        ("request_duration_seconds", "From a request's header to its whole answer.", ("route",), _SECONDS),
        ("decode_duration_seconds", "Decoding the images of a request.", _MODEL, _SECONDS),
        ("queue_duration_seconds", "From queueing a request's images to its first batch.", _MODEL, _SECONDS),
        ("inference_duration_seconds", "Running a batch.", _MODEL, _SECONDS),
        ("batch_size", "Images run together.", _MODEL, _IMAGES),
        ("confidence", "Probability of the most probable class.", _MODEL, _PROBABILITIES),
    ]
)
GAUGES = (
    Definition("convscope_queue_images", "Images currently waiting.", _MODEL),
    Definition("convscope_model_loaded", "Workers that serve a model.", (*_MODEL, "file", "engine", "device")),
    Definition("convscope_artifacts_refused", "Artifacts that are not served because a check failed."),
    Definition("convscope_workers", "Running workers."),
)


class Metrics:
    """The counts of this process; used on one event loop."""

    def __init__(self) -> None:
        self._all = {definition.name: MetricSeries(definition) for definition in (*COUNTS, KEPT)}
        self.errors = self["errors"]
        for code in sorted({kind.code for kind in STATUS} | {INTERNAL, OTHER_CODE}):  # type: ignore[attr-defined]
            self.errors.of(code)  # present from the start, so that the first error is an increase

    def __getitem__(self, name: str) -> MetricSeries:
        return self._all[f"convscope_{name}"]

    def of_requests(self, route: str, model: tuple[str, str], status: str) -> tuple[Series, Series, Series]:
        """The number, duration and decoding time of one kind of request."""
        decoding = self["decode_duration_seconds"].of(*model) if any(model) else Series()
        return self["requests"].of(route, *model, status), self["request_duration_seconds"].of(route), decoding

    def values(self) -> Values:
        """A copy of everything counted so far."""
        return {name: tallies.values() for name, tallies in self._all.items()}

    def add(self, values: Values) -> None:
        """Continues from another process's counts."""
        for name, series in values.items():
            for labels, more in series.items():
                own = self._all[name].of(*labels).values
                own[:] = [a + b for a, b in zip(own, more, strict=True)]


class ModelMetrics:
    """The counts of one version of a model; a replacement with the same name and version continues them."""

    def __init__(self, metrics: Metrics, name: str, version: int, classes: tuple[str, ...]) -> None:
        self.labels = (name, str(version))
        self.queue = metrics["queue_duration_seconds"].of(*self.labels)
        self._inference = metrics["inference_duration_seconds"].of(*self.labels)
        self._batch_size = metrics["batch_size"].of(*self.labels)
        self._images = metrics["images"].of(*self.labels)
        self._confidence = metrics["confidence"].of(*self.labels)
        self._predictions = metrics["predictions"]
        self._classes = classes[:CLASS_LIMIT]
        self._predicted: dict[int, Series] = {}
        self.statistics = Statistics(metrics["v2_statistics"], self.labels)

    def batch(self, probabilities: Floats, seconds: float) -> None:
        """Counts a finished batch.

        Args:
            probabilities: (N, K).
            seconds: duration of the batch.
        """
        self._inference.observe(seconds)
        self._batch_size.observe(len(probabilities))
        self._images.count(len(probabilities))
        for row, index in enumerate(probabilities.argmax(1).tolist()):
            confidence = probabilities.item(row, index)
            if isfinite(confidence):  # argmax finds a NaN first; the image gets an error, and is counted there
                (self._predicted.get(index) or self._class(index)).count()
                self._confidence.observe(confidence)

    def _class(self, index: int) -> Series:
        label = self._classes[index] if index < len(self._classes) else OTHER_CLASS
        tally = self._predicted[index] = self._predictions.of(*self.labels, label)
        return tally
