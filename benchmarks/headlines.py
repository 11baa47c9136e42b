"""The few quotients that a run is about, of each workload: ours over peers and floors.

Ours is the first optimizer of the run, `lazy_adam` by default, and exact Adam beside it, which is
what the peers have. Each is compared with the fastest peer of its own precision, whichever that
is in training and in scoring. Two rows are of unequal precision and say so: bfloat16 of ours over
float32 of theirs, and over the float32 floor.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from figures import FLOOR, OURS, PEER, SCORE, TRAIN, Engine, Panel

EXACT = "deepfm adam"
UNEQUAL = "(unequal precision) "


class Headline(NamedTuple):
    """A quotient of medians; None where one of the two was not measured."""

    what: str
    train: float | None
    score: float | None


def headlines(panel: Panel) -> list[Headline]:
    """The quotients of one workload at one number of threads."""
    return list(_headlines(panel))


def _headlines(panel: Panel) -> Iterator[Headline]:
    engines = [engine for engine in panel.engines if not engine.error]
    precisions = dict.fromkeys(engine.precision for engine in engines)
    for precision in precisions:
        mine = [e for e in engines if e.role == OURS and e.precision == precision]
        for ours in [*mine[:1], *(e for e in mine[1:] if e.engine == EXACT)]:
            yield from _over(ours, engines, PEER, precision)
            yield from _over(ours, engines, FLOOR, precision)
    bf16 = next((e for e in engines if e.role == OURS and e.precision == "bf16"), None)
    if bf16 is not None:
        yield from _over(bf16, engines, PEER, "fp32")
        yield from _over(bf16, engines, FLOOR, "fp32")


def _over(ours: Engine, engines: Sequence[Engine], role: str, precision: str) -> Iterator[Headline]:
    """Ours over the fastest of a role and precision, in training and in scoring."""
    others = [
        e for e in engines if e.role == role and e.precision == precision and not e.learns_less
    ]
    quotients, names = [], []
    for what in (TRAIN, SCORE):
        figures = {e.name: e.figure(what) for e in others}
        medians = {name: figure.median for name, figure in figures.items() if figure}
        mine = ours.figure(what)
        if not medians or mine is None:
            quotients.append(None)
            continue
        fastest = max(medians, key=medians.__getitem__)
        quotients.append(mine.median / medians[fastest])
        names.append(fastest)
    if names:
        unequal = UNEQUAL if ours.precision != precision else ""
        against = " / ".join(dict.fromkeys(names))
        less = " (learns less)" if ours.learns_less else ""
        yield Headline(f"{unequal}{ours.name}{less} over {against}", *quotients)


def table(found: Sequence[Panel]) -> list[str]:
    """The lines of a Markdown table over all workloads."""
    rows = ["| | | train | score |", "| --- | --- | ---: | ---: |"]
    for panel in found:
        for what, *quotients in headlines(panel):
            cells = ("-" if value is None else f"{value:.2f}" for value in quotients)
            rows.append(f"| {panel.title} | {what} | {' | '.join(cells)} |")
    return rows
