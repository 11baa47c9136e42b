"""From the drivers' lines of JSON to figures, ratios and a table in Markdown.

Decided here: what a figure is divided by. All quotients are of medians over the repeats of one
run, on one workload at one number of threads:

- share of the floor: rows/s over what `floor.py` measured in the same run;
- ratio: rows/s over the best peer's (reference rows are no peers);
- ratio per operation: rows/s times operations per row, over the highest such product of a peer,
  because the models are not all the same size.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

FLOOR, OURS, PEER, REFERENCE = "floor", "ours", "peer", "reference"
_TRAIN, _SCORE = ("train", "score")
_HEADER = (
    "engine",
    "train rows/s (min-max)",
    "of floor",
    "x best peer",
    "x per operation",
    "score rows/s (min-max)",
    "of floor",
    "x best peer",
    "peak MB",
    "parameters",
    "flops/row",
    "AUC",
)


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
        role: `floor`, `ours`, `peer` or `reference`.
        train, score: None where it was not measured.
        details: The other keys of the driver's line: parameters, dnn_inputs, notes and so on;
            `peak_memory_mb` is the highest of the repeats.
        error: Why there are no figures; empty if there are.
    """

    name: str
    role: str
    train: Figure | None
    score: Figure | None
    train_quotients: Quotients
    score_quotients: Quotients
    details: dict[str, Any]
    error: str = ""


class Panel(NamedTuple):
    """All engines of one workload at one number of threads."""

    workload: str
    threads: int
    engines: tuple[Engine, ...]


def panels(records: Iterable[dict[str, Any]], *, clock: str) -> list[Panel]:
    """Groups the lines of all repeats.

    Args:
        records: What the drivers printed, each with its `role`; of a run that failed `peer`,
            `workload`, `threads`, `role` and `error`.
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
        for what in (_TRAIN, _SCORE)
    }
    flops = {name: lines[0]["flops_per_row"] for name, lines in finished.items()}
    roles = {name: lines[0]["role"] for name, lines in group.items()}

    def quotients(name: str, what: str) -> Quotients:
        figure = figures.get((name, what))
        if figure is None:
            return Quotients(None, None, None)
        medians = {other: f.median for (other, kind), f in figures.items() if kind == what and f}
        peers = [other for other in medians if roles[other] == PEER]
        floor = next((medians[other] for other in medians if roles[other] == FLOOR), None)
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
                roles[name],
                figures.get((name, _TRAIN)),
                figures.get((name, _SCORE)),
                quotients(name, _TRAIN),
                quotients(name, _SCORE),
                details,
                "" if done else lines[0]["error"],
            )
        )
    return tuple(engines)


def _figure(lines: Sequence[dict[str, Any]], key: str) -> Figure | None:
    values = [line[key] for line in lines if line.get(key) is not None]
    return Figure(statistics.median(values), min(values), max(values)) if values else None


def table(panel: Panel) -> list[str]:
    """The lines of a panel's Markdown table."""
    rows = [_HEADER, ("---", *["---:"] * (len(_HEADER) - 1))]
    rows += [_row(engine) for engine in panel.engines]
    return [f"| {' | '.join(row)} |" for row in rows]


def _row(engine: Engine) -> tuple[str, ...]:
    name = f"**{engine.name}**" if engine.role == OURS else engine.name
    if engine.role == REFERENCE:
        name += " (reference)"
    if engine.error:
        return (name, f"failed: {engine.error}".replace("|", "\\|"), *["-"] * (len(_HEADER) - 2))
    details, train, score = engine.details, engine.train_quotients, engine.score_quotients
    return (
        name,
        _speed(engine.train),
        _share(train.of_floor),
        _ratio(train.of_best_peer),
        _ratio(train.per_operation),
        _speed(engine.score),
        _share(score.of_floor),
        _ratio(score.of_best_peer),
        _text(details.get("peak_memory_mb"), "{:,.0f}"),
        _text(details.get("parameters"), "{:,}"),
        _text(details.get("flops_per_row"), "{:,}"),
        _text(details.get("auc"), "{:.4f}"),
    )


def _speed(figure: Figure | None) -> str:
    return "-" if figure is None else f"{figure.median:,.0f} ({figure.low:,.0f}-{figure.high:,.0f})"


def _share(value: float | None) -> str:
    return _text(value, "{:.0%}")


def _ratio(value: float | None) -> str:
    return _text(value, "{:.2f}")


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def markdown(results: dict[str, Any]) -> str:
    """The whole report of a run, from what is written to results.json."""
    machine = results["machine"]
    lines = [
        f"# Benchmark, {results['date']}",
        "",
        f"`{results['command']}`",
        "",
        *(f"- {key}: {value}" for key, value in machine.items() if value is not None),
        f"- clock: {results['clock']}, medians of {results['repeats']} repeats",
    ]
    if learning := results.get("learning"):
        lines += ["", "## Learning: AUC on W1 against the textbook implementation", ""]
        lines += _learning(learning)
    for panel in panels(results["records"], clock=results["clock"]):
        threads = f"{panel.threads} thread{'s' * (panel.threads > 1)}"
        lines += ["", f"## {panel.workload}, {threads}", "", *table(panel), ""]
        lines += [
            f"- {engine.name}: {engine.details['notes']}"
            for engine in panel.engines
            if engine.details.get("notes")
        ]
    if results["micro"]:
        lines += ["", "## Around the step", "", *micro_table(results["micro"], results["clock"])]
    return "\n".join(lines) + "\n"


def _learning(learning: dict[str, Any]) -> list[str]:
    rows = ["| tables | ours, mean (seeds) | textbook, mean (seeds) |", "| --- | --- | --- |"]
    for optimizer, values in learning["auc"].items():
        cells = (
            f"{statistics.mean(values[who]):.4f} ({', '.join(f'{v:.4f}' for v in values[who])})"
            for who in ("ours", "textbook")
        )
        rows.append(f"| {optimizer} | {' | '.join(cells)} |")
    return rows


def micro_table(lines: Sequence[dict[str, Any]], clock: str) -> list[str]:
    """The lines of the table of tasks, each way with its time as a multiple of ours."""
    rows = ["| task | threads | way | seconds | ours takes |", "| --- | ---: | --- | ---: | ---: |"]
    for line in lines:
        if "error" in line:
            rows.append(f"| {line['task']} | {line['threads']} | failed: {line['error']} | - | - |")
            continue
        mine = line["ways"]["ours"][f"{clock}_s"]
        for way, seconds in line["ways"].items():
            taken = seconds[f"{clock}_s"]
            share = "" if way == "ours" else f"{mine / taken:.3g} of it"
            rows.append(
                f"| {line['task']} | {line['threads']} | {way} | {taken:.4g} | {share or '-'} |"
            )
    return rows
