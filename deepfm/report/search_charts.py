"""Charts of a search: the best value so far, learning curves, and each setting.

Decided here: a state of a trial has its shape and colour in all charts. A chart ends a few median
distances behind the best value, so that a hopeless trial does not press all others into a line:
what is worse stands at that edge, and failed trials, which have no value, too.
"""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from deepfm.errors import cut
from deepfm.report.drawing import INK, colour, drawn
from deepfm.report.panel import Panel
from deepfm.report.searches import Search, SearchTrial
from deepfm.report.table import Table, shown
from deepfm.utils.settings import settings_text, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FAR = 4.0  # median distances from the best value, beyond which a chart ends
_MOST_TICKS = 5


class _State(NamedTuple):
    """How trials of a state are drawn.

    Attributes:
        place: Among the colours.
        marker: As matplotlib calls it.
        mark: As the key of a panel does.
    """

    place: int
    marker: str
    mark: str


_STATES = {
    "finished": _State(0, "o", "dot"),
    "pruned": _State(1, "D", "diamond"),
    "failed": _State(2, "X", "cross"),
}
_LINE = len(_STATES)  # the colour of the best
_MARKS = (*(state.mark for state in _STATES.values()), "line")


def edge_of(search: Search) -> float | None:
    """The worst value that charts have room for; None where they have room for all."""
    if search.best is None or search.best.value is None:
        return None
    best = search.best.value
    values = [t.value for t in search.trials if t.state != "failed" and t.value is not None]
    distances = [search.gain(best, value) for value in values]
    farthest = _FAR * median(distances)
    if farthest <= 0 or max(distances) <= farthest:
        return None
    return best - farthest if search.maximize else best + farthest


def progress(search: Search, *, name: str) -> Panel:
    """The value of each trial, and the best one so far."""
    best_so_far: list[tuple[SearchTrial, float]] = []
    for trial in search.trials:
        if trial.state == "finished" and trial.value is not None:
            before = best_so_far[-1][1] if best_so_far else trial.value
            best = trial.value if search.gain(trial.value, before) > 0 else before
            best_so_far.append((trial, best))

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        axis.step(
            [trial.number for trial, _ in best_so_far],
            [value for _, value in best_so_far],
            where="post",
            color=colour(_LINE),
        )
        _points(axis, search, {trial.number: float(trial.number) for trial in search.trials})
        axis.set_xlabel("trial")
        axis.locator_params(axis="x", integer=True, nbins=6)

    reached = {trial.number: value for trial, value in best_so_far}
    rows = [[f"trial {t.number}", t.state, t.value, reached.get(t.number)] for t in search.trials]
    return Panel(
        "Best value over trials",
        "A line that still rises at the end asks for more trials; one that has been flat for long "
        "says that the space holds little more. The best trial is ringed."
        if search.maximize
        else "A line that still falls at the end asks for more trials; one that has been flat for "
        "long says that the space holds little more. The best trial is ringed.",
        Table(["trial", "", search.metric, "best so far"], rows),
        drawn(
            name,
            f"{search.metric} of {len(search.trials)} trials and the best so far",
            paint,
            left=0.21,
            tips=_tips(search),
        ),
        (*_present(search), "best so far"),
        _MARKS,
    )


def curves(search: Search, *, name: str) -> Panel:
    """What each trial reached in the course of its training; a pruned one ends where it was cut."""
    known = [trial for trial in search.trials if trial.evaluations and trial.state in _STATES]
    best = search.best

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        for trial in known:
            epochs, values = zip(*trial.evaluations, strict=True)
            state = _STATES[trial.state]
            is_best = best is not None and trial.number == best.number
            axis.plot(
                epochs,
                values,
                color=colour(_LINE if is_best else state.place),
                linewidth=2.6 if is_best else 1.0,
                zorder=3 if is_best else 2,
            )
            axis.plot(
                epochs[-1:],
                values[-1:],
                state.marker,
                color=colour(state.place),
                markersize=5,
                zorder=4,
            )
        axis.set_xlabel("epoch")
        axis.locator_params(axis="x", integer=True, nbins=6)
        axis.margins(0.06)
        _values_upright(axis, search)

    rows = []
    for trial in known:
        values = [value for _, value in trial.evaluations]
        top = max(values) if search.maximize else min(values)
        figures = [len(values), trial.epochs, values[0], top, values[-1]]
        rows.append([f"trial {trial.number}", trial.state, *figures])
    drawn_states = {trial.state for trial in known}
    return Panel(
        "Learning curves",
        "A pruned trial ends where it was worse than the median of the others. Where a pruned one "
        "still rises steeply, it may have been cut too early; where the best one has not flattened "
        "out, more epochs may help."
        if search.maximize
        else "A pruned trial ends where it was worse than the median of the others. Where a pruned "
        "one still falls steeply, it may have been cut too early; where the best one has not "
        "flattened out, more epochs may help.",
        Table(["trial", "", "evaluations", "epochs", "first", "best", "last"], rows),
        drawn(
            name,
            f"{search.metric} in the course of {len(known)} trials",
            paint,
            left=0.21,
        ),
        (*(state if state in drawn_states else "" for state in _STATES), "best trial"),
        _MARKS,
    )


def setting(search: Search, key: str, *, name: str) -> Panel:
    """The metric by the values of one key: along a range, or a strip for each choice."""
    dimension = search.space[key]
    if isinstance(dimension, list):
        return _strips(search, key, dimension, name)
    return _along(search, key, dimension, name)


def _along(search: Search, key: str, span: Mapping[str, Any], name: str) -> Panel:
    low, high, is_log = span["low"], span["high"], bool(span.get("log"))
    is_whole = isinstance(low, int) and isinstance(high, int)

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        _points(axis, search, {t.number: float(t.settings[key]) for t in search.trials})
        if is_log:
            axis.set_xscale("log")
            ticks = log_ticks(low, high)
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
            room = (high / low) ** 0.05
            axis.set_xlim(low / room, high * room)
        else:
            axis.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            axis.locator_params(axis="x", integer=is_whole, nbins=5)
        axis.set_xlabel(cut(key, 40))

    hint = (
        "Look where the good values gather. A cloud without a slope says that the setting matters "
        "little here. The best trial is ringed."
    )
    if search.best is not None and (end := end_of(span, search.best.settings[key])):
        hint += f" It lies at the {end} end of the range: a wider one may hold a better one."
    scale = "on a logarithmic scale" if is_log else "on an even scale"
    return Panel(
        key,
        hint,
        _table(search, key),
        drawn(
            name,
            f"{search.metric} by {key} {scale}",
            paint,
            left=0.21,
            tips=_tips(search),
        ),
        _present(search),
        _MARKS,
    )


def _strips(search: Search, key: str, choices: Sequence[Any], name: str) -> Panel:
    named = list(dict.fromkeys(map(json.dumps, choices)))
    height = 74 + 36 * max(2, len(named))

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        strip = {t.number: len(named) - 1 - named.index(_dumped(t, key)) for t in search.trials}
        places = {number: place + _aside(number) for number, place in strip.items()}
        _points(axis, search, places, upright=False)
        for choice in named:
            place = len(named) - 1 - named.index(choice)
            values = [
                t.value
                for t in search.of("finished")
                if strip[t.number] == place and t.value is not None
            ]
            if values:
                axis.vlines(_within(search, median(values)), place - 0.36, place + 0.36, color=INK)
        labels = [cut(value_text(json.loads(choice)), 18) for choice in reversed(named)]
        axis.set_yticks(range(len(named)), labels)
        axis.set_ylim(-0.6, len(named) - 0.4)
        axis.set_xlabel(cut(search.metric, 40))

    return Panel(
        key,
        "A strip for each choice; the upright line is the median of its finished trials. Strips "
        "that cover each other say that other settings matter more; one with few points was given "
        "up early, or hardly tried. The best trial is ringed.",
        _table(search, key),
        drawn(
            name,
            f"{search.metric} by {key}, {len(named)} choices",
            paint,
            left=0.34,
            bottom=48 / height,
            height=height,
            tips=_tips(search),
        ),
        _present(search),
        _MARKS,
    )


def log_ticks(low: float, high: float) -> list[float]:
    """At most five round numbers within a range, even in their logarithm as far as that goes.

    Example:
        >>> log_ticks(1e-4, 1e-2), log_ticks(0.001, 0.004), log_ticks(3, 4)
        ([0.0001, 0.001, 0.01], [0.001, 0.002], [3, 4])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [float(f"1e{power}") for power in powers]
    fine = [tick for ten in tens for tick in (ten, 2 * ten, 5 * ten) if low <= tick <= high]
    coarse = [ten for ten in tens if low <= ten <= high]
    found = fine if len(coarse) < 3 and len(fine) <= _MOST_TICKS else coarse
    if len(found) < 2:
        return [low, high]
    return found[:: math.ceil(len(found) / _MOST_TICKS)]


def end_of(span: Mapping[str, Any], value: float) -> str:
    """The end of a range, `lower` or `upper`, that a value lies at; empty in the middle.

    Example:
        >>> (
        ...     end_of({"low": 0.001, "high": 0.1, "log": True}, 0.095),
        ...     end_of({"low": 0, "high": 1}, 0.5),
        ... )
        ('upper', '')
    """
    low, high = span["low"], span["high"]
    if span.get("log"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    share = (value - low) / (high - low)
    return "lower" if share < 0.05 else "upper" if share > 0.95 else ""


def _points(
    axis: "Axes", search: Search, places: Mapping[int, float], *, upright: bool = True
) -> None:
    """A mark per trial that has ended, at its place along one axis and its value along the other.

    Args:
        places: By number of the trial.
        upright: Whether values go upwards, not to the right.
    """
    for name, state in _STATES.items():
        trials = _shown_of(search, name)
        along = [places[trial.number] for trial in trials]
        look: dict[str, Any] = {
            "s": 36, "marker": state.marker, "color": colour(state.place), "linewidths": 0,
            "alpha": 0.8, "gid": name, "zorder": 3, "clip_on": False,
        }  # fmt: skip
        if name == "failed":  # at the edge of the axis, in shares of its length
            edge = [0.02 if search.maximize else 0.98] * len(trials)
            look["transform"] = (
                axis.get_xaxis_transform() if upright else axis.get_yaxis_transform()
            )
        else:
            edge = [_within(search, trial.value) for trial in trials]
        axis.scatter(*((along, edge) if upright else (edge, along)), **look)
    if search.best is not None and search.best.value is not None:
        at = (places[search.best.number], search.best.value)
        axis.plot(
            *(([value] for value in at) if upright else ([value] for value in at[::-1])),
            "o",
            markersize=12,
            fillstyle="none",
            color=INK,
            clip_on=False,
        )
    axis.margins(0.08)
    _values_upright(axis, search) if upright else _values_along(axis, search)


def _values_upright(axis: "Axes", search: Search) -> None:
    axis.set_ylabel(cut(search.metric, 30))
    axis.locator_params(axis="y", nbins=5)
    axis.ticklabel_format(axis="y", useOffset=False)
    if (ends := _ends(search)) is not None:
        axis.set_ylim(*ends)


def _values_along(axis: "Axes", search: Search) -> None:
    axis.locator_params(axis="x", nbins=4)
    axis.ticklabel_format(axis="x", useOffset=False)
    if (ends := _ends(search)) is not None:
        axis.set_xlim(*ends)


def _ends(search: Search) -> tuple[float, float] | None:
    """Where an axis of values begins and ends; None where it has room for all."""
    edge = edge_of(search)
    if edge is None:
        return None
    values = [value for trial in search.trials for _, value in trial.evaluations]
    values += [trial.value for trial in search.of("finished") if trial.value is not None]
    best = max(values) if search.maximize else min(values)
    best += 0.08 * (best - edge)
    return (edge, best) if search.maximize else (best, edge)


def _within(search: Search, value: float | None) -> float:
    """A value, or the edge of the charts where it lies beyond."""
    edge = edge_of(search)
    assert value is not None  # of what is shown
    if edge is None:
        return value
    return max(value, edge) if search.maximize else min(value, edge)


def _shown_of(search: Search, state: str) -> list[SearchTrial]:
    """The trials of a state that have a mark: failed ones need no value for it."""
    return [t for t in search.of(state) if state == "failed" or t.value is not None]


def _tips(search: Search) -> dict[str, list[str]]:
    """What each mark says when a pointer rests on it."""
    return {
        state: [
            f"trial {t.number}, {state}: {shown(t.value)}; {settings_text(t.settings)}"
            for t in _shown_of(search, state)
        ]
        for state in _STATES
    }


def _present(search: Search) -> tuple[str, ...]:
    """The states that have marks, empty names in the places of others."""
    return tuple(state if _shown_of(search, state) else "" for state in _STATES)


def _table(search: Search, key: str) -> Table:
    rows = [
        [f"trial {t.number}", value_text(t.settings[key]), t.state, t.value] for t in search.trials
    ]
    return Table(["trial", key, "", search.metric], rows)


def _dumped(trial: SearchTrial, key: str) -> str:
    return json.dumps(trial.settings[key])


def _aside(number: int) -> float:
    """How far a mark stands from the middle of its strip, so that equal values are told apart."""
    return 0.5 * ((number * 0.618034) % 1.0 - 0.5)
