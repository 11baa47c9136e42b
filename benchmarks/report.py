"""The tables of a run in Markdown, from its `results.json`; `figures.py` says what they mean."""

import statistics
from collections.abc import Sequence
from typing import Any

import headlines
from figures import OURS, REFERENCE, Engine, Figure, Panel, panels

_HEADER = (
    "engine",
    "precision",
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


def table(panel: Panel) -> list[str]:
    """The lines of a panel's Markdown table."""
    rows = [_HEADER, ("---", *["---:"] * (len(_HEADER) - 1))]
    rows += [_row(engine) for engine in panel.engines]
    return [f"| {' | '.join(row)} |" for row in rows]


def _row(engine: Engine) -> tuple[str, ...]:
    name = f"**{engine.name}**" if engine.role == OURS else engine.name
    if engine.role == REFERENCE:
        name += " (reference)"
    if engine.learns_less:
        name += " (learns less)"
    if engine.error:
        failed = f"failed: {engine.error}".replace("|", "\\|")
        return (name, engine.precision, failed, *["-"] * (len(_HEADER) - 3))
    details, train, score = engine.details, engine.train_quotients, engine.score_quotients
    return (
        name,
        engine.precision,
        _speed(engine.train),
        _share(train.of_floor),
        _ratio(train.of_best_peer),
        _ratio(train.per_operation),
        _speed(engine.score),
        _share(score.of_floor),
        _ratio(score.of_best_peer),
        _text(details.get("peak_memory_mb"), "{:,.0f}")
        + _text(details.get("peak_device_mb"), " + {:,.0f} on the device", missing=""),
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


def _text(value: float | None, form: str, missing: str = "-") -> str:
    return missing if value is None else form.format(value)


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
    found = panels(results["records"], clock=results["clock"])
    lines += ["", "## Headlines", "", *headlines.table(found)]
    if learning := results.get("learning"):
        lines += ["", "## Learning: AUC on W1 against the textbook implementation", ""]
        lines += _learning(learning)
    lines += ["", "## All engines side by side", "", *summary(found), ""]
    lines += ["The AUC is that after the first repeat's training, on the score split."]
    for panel in found:
        lines += ["", f"## {panel.title}", "", *table(panel), ""]
        lines += [
            f"- {engine.name}: {engine.details['notes']}"
            for engine in panel.engines
            if engine.details.get("notes")
        ]
    if results["micro"]:
        lines += ["", "## Around the step", "", *micro_table(results["micro"], results["clock"])]
    return "\n".join(lines) + "\n"


def _learning(learning: dict[str, Any]) -> list[str]:
    rows = ["| tables | who | mean AUC | of each seed |", "| --- | --- | ---: | --- |"]
    for optimizer, found in learning["auc"].items():
        for who, values in found.items():
            seeds = ", ".join(f"{value:.4f}" for value in values)
            rows.append(f"| {optimizer} | {who} | {statistics.mean(values):.4f} | {seeds} |")
    return rows


def summary(found: Sequence[Panel]) -> list[str]:
    """The lines of a table with a row per engine and four columns per panel."""
    header = ["engine"]
    for panel in found:
        header += [f"{panel.title}: train", "of floor", "score", "AUC"]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    engines = [{engine.name: engine for engine in panel.engines} for panel in found]
    for name in dict.fromkeys(name for by_name in engines for name in by_name):
        cells = [cell for by_name in engines for cell in _summary(by_name.get(name))]
        rows.append([name, *cells])
    return [f"| {' | '.join(row)} |" for row in rows]


def _summary(engine: Engine | None) -> tuple[str, ...]:
    if engine is None:
        return ("-",) * 4
    return (
        _text(engine.train and engine.train.median, "{:,.0f}"),
        _share(engine.train_quotients.of_floor),
        _text(engine.score and engine.score.median, "{:,.0f}"),
        _text(engine.details.get("auc"), "{:.4f}"),
    )


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
