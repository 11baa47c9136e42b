"""From the drivers' lines of JSON to figures and quotients.

Decided here: what a figure is divided by. All quotients are of medians over the repeats of one
run, on one workload at one number of threads, and of one precision:

- share of the floor: rows/s over what `floor.py` measured in the same run;
- ratio: rows/s over the best peer's (reference rows are no peers);
- ratio per operation: rows/s times operations per row, over the highest such product of a peer,
  because the models are not all the same size.

A peer whose bfloat16 learns less than its own float32 is never the best one. `headlines.py` has
the few figures that matter.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

FLOOR, OURS, PEER, REFERENCE = "floor", "ours", "peer", "reference"
TRAIN, SCORE = ("train", "score")
SAME_AUC = 0.005  # of one run each; seeds alone move W3's by half as much


class Figure(NamedTuple):
    """Rows per second over the repeats."""

    median: float
    low: float
    high: float


class Quotients(NamedTuple):
    """A median over those of the same run; None where there is nothing to divide by."""

    of_floor: float | None
    of_best_peer: float | None
    per_operation: float | None


class Engine(NamedTuple):
    """One engine on one workload at one number of threads.

    Attributes:
        engine: The same for all ways of running it.
        role: `floor`, `ours`, `peer` or `reference`.
        precision: Of the DNN's products, `fp32` or `bf16`.
        learns_less: Than the same engine in float32, by more than `SAME_AUC`.
        train, score: None where it was not measured.
        details: The other keys of the driver's line: parameters, dnn_inputs, notes and so on;
            `peak_memory_mb` is the highest of the repeats.
        error: Why there are no figures; empty if there are.
    """

    name: str
    engine: str
    role: str
    precision: str
    learns_less: bool
    train: Figure | None
    score: Figure | None
    train_quotients: Quotients
    score_quotients: Quotients
    details: dict[str, Any]
    error: str = ""

    def figure(self, what: str) -> Figure | None:
        """That of `TRAIN` or of `SCORE`."""
        return {TRAIN: self.train, SCORE: self.score}[what]


class Panel(NamedTuple):
    """All engines of one workload at one number of threads."""

    workload: str
    threads: int
    engines: tuple[Engine, ...]

    @property
    def title(self) -> str:
        """Workload and threads in words."""
        return f"{self.workload}, {self.threads} thread{'s' * (self.threads > 1)}"


def panels(records: Iterable[dict[str, Any]], *, clock: str) -> list[Panel]:
    """Groups the lines of all repeats.

    Args:
        records: What the drivers printed, each with `peer`, `engine` (the same for all ways of
            running it), `role`, `precision`, `workload` and `threads`; of a run that failed these
            and `error`.
        clock: `wall` or `cpu`.
    """
    groups: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        group = groups.setdefault((record["workload"], record["threads"]), {})
        group.setdefault(record["peer"], []).append(record)
    return [
        Panel(workload, threads, _engines(group, clock))
        for (workload, threads), group in groups.items()
    ]


def _engines(group: dict[str, list[dict[str, Any]]], clock: str) -> tuple[Engine, ...]:
    finished = {
        name: done
        for name, lines in group.items()
        if (done := [line for line in lines if "error" not in line])
    }
    figures = {
        (name, what): _figure(lines, f"{what}_{'cpu_' * (clock == 'cpu')}rows_per_s")
        for name, lines in finished.items()
        for what in (TRAIN, SCORE)
    }
    flops = {name: lines[0]["flops_per_row"] for name, lines in finished.items()}
    first = {name: lines[0] for name, lines in group.items()}
    less = {name for name, lines in finished.items() if _learns_less(lines[0], finished.values())}

    def quotients(name: str, what: str) -> Quotients:
        figure = figures.get((name, what))
        if figure is None:
            return Quotients(None, None, None)
        medians = {
            other: f.median
            for (other, kind), f in figures.items()
            if kind == what and f and first[other]["precision"] == first[name]["precision"]
        }
        peers = [other for other in medians if first[other]["role"] == PEER and other not in less]
        floor = next((medians[other] for other in medians if first[other]["role"] == FLOOR), None)
        return Quotients(
            floor and figure.median / floor,
            figure.median / max(medians[peer] for peer in peers) if peers else None,
            figure.median * flops[name] / max(medians[peer] * flops[peer] for peer in peers)
            if peers
            else None,
        )

    engines = []
    for name, lines in group.items():
        done = finished.get(name, [])
        details = dict(done[0]) if done else {}
        if "peak_memory_mb" in details:
            details["peak_memory_mb"] = max(line["peak_memory_mb"] for line in done)
        engines.append(
            Engine(
                name,
                first[name]["engine"],
                first[name]["role"],
                first[name]["precision"],
                name in less,
                figures.get((name, TRAIN)),
                figures.get((name, SCORE)),
                quotients(name, TRAIN),
                quotients(name, SCORE),
                details,
                "" if done else lines[0]["error"],
            )
        )
    return tuple(engines)


def _learns_less(line: dict[str, Any], others: Iterable[Sequence[dict[str, Any]]]) -> bool:
    """Whether an engine in bfloat16 has a lower AUC than in float32, the best of its ways."""
    exact = [
        lines[0]["auc"]
        for lines in others
        if lines[0]["engine"] == line["engine"] and lines[0]["precision"] == "fp32"
        if lines[0].get("auc") is not None
    ]
    if line["precision"] == "fp32" or line.get("auc") is None or not exact:
        return False
    return line["auc"] < max(exact) - SAME_AUC


def _figure(lines: Sequence[dict[str, Any]], key: str) -> Figure | None:
    values = [line[key] for line in lines if line.get(key) is not None]
    return Figure(statistics.median(values), min(values), max(values)) if values else None
