"""What a server counts of its requests and of the values in them, and how it is shown.

Shares of unknown and of missing values by field, and the probabilities that were answered, are
what tells a model in use from the one that was trained; the other numbers are of the server.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepfm.serving.counters import Counters, Name, totals
from deepfm.utils.extras import needed

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PROBABILITIES = tuple(round(0.05 * k, 2) for k in range(1, 21))
BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_HISTOGRAMS = {
    "seconds": (SECONDS, ("route",), "Seconds from a request to its answer."),
    "batch_rows": (BATCH_ROWS, (), "Rows that were scored at once."),
    "predictions": (PROBABILITIES, ("prediction",), "What was predicted, by column."),
}
_COUNTERS = {
    "requests": (("route", "status"), "Requests by what they were answered with."),
    "rows": ((), "Rows that were scored."),
    "values": (("field",), "Values that fields have read."),
    "unknown_values": (("field",), "Those that training has not seen."),
    "missing_values": (("field",), "Those that were absent."),
    "reloads": (("outcome",), "Loads of a new model, of all workers."),
    "starts": ((), "Starts of workers; more than there are workers mean restarts."),
}


class Metrics:
    """Counts what one worker does.

    Args:
        counters: Its numbers.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._of_histograms: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._places: dict[tuple[str, int], tuple[int, int]] = {}

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        values = self._counters.values
        places = self._places.get((route, status))
        if places is None:
            self._histogram("seconds", route)
            places = (
                self._counters.place("requests", route, str(status)),
                self._counters.place("seconds_sum", route),
            )
            self._places[route, status] = places
        values[places[0]] += 1
        values[places[1]] += seconds
        edges, own = self._histogram("seconds", route)
        values[own[int(edges.searchsorted(seconds))]] += 1

    def batch(self, rows: int, predictions: Mapping[str, np.ndarray]) -> None:
        """Count rows that were scored together."""
        self._counters.add(rows, "rows")
        self._observe("batch_rows", np.array([rows]))
        for name, values in predictions.items():
            self._observe("predictions", values, name)

    def fields(self, rows: int, unknown: Mapping[str, int], missing: Mapping[str, int]) -> None:
        """Count the values of a batch by field."""
        for of, counts in (("unknown_values", unknown), ("missing_values", missing)):
            for field, count in counts.items():
                self._counters.add(count, of, field)
        for field in missing:
            self._counters.add(rows, "values", field)

    def reload(self, outcome: str) -> None:
        """Count a load of a new model: `loaded` or `failed`."""
        self._counters.add(1, "reloads", outcome)

    def start(self) -> None:
        """Count that the worker begins."""
        self._counters.add(1, "starts")

    def _observe(self, of: str, values: np.ndarray, *labels: str) -> None:
        edges, places = self._histogram(of, *labels)
        found = np.bincount(edges.searchsorted(values), minlength=len(places))
        self._counters.values[places] += found
        self._counters.values[self._counters.place(f"{of}_sum", *labels)] += float(values.sum())

    def _histogram(self, of: str, *labels: str) -> tuple[np.ndarray, np.ndarray]:
        """Upper ends of the buckets, and the places of their counts, one more for what is above."""
        key = (of, *labels)
        found = self._of_histograms.get(key)
        if found is None:
            edges = np.array(_HISTOGRAMS[of][0], np.float64)
            own = [(*labels, str(k)) for k in range(len(edges) + 1)]
            found = self._of_histograms[key] = (edges, self._counters.places(f"{of}_bucket", own))
        return found


def shown(folder: Path, version: str) -> tuple[bytes, str]:
    """The sums over all workers in the text form of Prometheus, and its content type.

    Args:
        folder: Where the workers count.
        version: Of the model that answers.
    """
    client: Any = needed("prometheus_client", extra="serve", wanted_by="deepfm serve")
    registry = client.CollectorRegistry()
    registry.register(_Collector(totals(folder), version))
    return client.generate_latest(registry), client.CONTENT_TYPE_LATEST


class _Collector:
    """Hands the sums to prometheus-client."""

    def __init__(self, found: Mapping[Name, float], version: str) -> None:
        self._found, self._version = found, version

    def collect(self) -> Iterator[Any]:
        core: Any = needed("prometheus_client.core", extra="serve", wanted_by="deepfm serve")
        for of, (labels, text) in _COUNTERS.items():
            family = core.CounterMetricFamily(f"deepfm_{of}", text, labels=labels)
            for own, value in self._of(of).items():
                family.add_metric(own, value)
            yield family
        for of in ("unknown", "missing"):
            family = core.GaugeMetricFamily(
                f"deepfm_{of}_share", f"Share of {of} values of a field.", labels=("field",)
            )
            seen = self._of("values")
            for own, value in self._of(f"{of}_values").items():
                family.add_metric(own, value / seen[own] if seen.get(own) else 0.0)
            yield family
        for of, (edges, labels, text) in _HISTOGRAMS.items():
            family = core.HistogramMetricFamily(f"deepfm_{of}", text, labels=labels)
            sums, counts = self._of(f"{of}_sum"), self._of(f"{of}_bucket")
            for own, total in sums.items():
                of_buckets = [counts.get((*own, str(k)), 0.0) for k in range(len(edges) + 1)]
                upper = [*map(str, map(float, edges)), "+Inf"]
                below = np.cumsum(of_buckets).tolist()
                family.add_metric(own, list(zip(upper, below, strict=True)), total)
            yield family
        info = core.GaugeMetricFamily(
            "deepfm_model", "The model that answers.", labels=("version",)
        )
        info.add_metric([self._version], 1.0)
        yield info

    def _of(self, name: str) -> dict[tuple[str, ...], float]:
        return {key.labels: value for key, value in self._found.items() if key.of == name}
