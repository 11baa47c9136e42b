"""Whether a run is better than what it is measured by, in one line and a table.

Decided here: of a ranking task NDCG@10 is compared, of probabilities LogLoss, of numbers the
squared error, each over the same rows or positives by a paired test, corrected for the number of
rivals by Holm's method. Nothing is called better without it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfm.evaluation.paired import Difference, holm, paired_difference, word_for
from deepfm.report.panel import Panel
from deepfm.report.table import Table, interval, p_value, shown

WORDS = ("better", "no significant difference", "worse")


class Figure(NamedTuple):
    """What is compared.

    Attributes:
        title: Its name.
        smaller_is_better: Whether it is a loss.
        is_root: Whether it is shown as the root of the mean.
    """

    title: str
    smaller_is_better: bool = True
    is_root: bool = False

    def of(self, values: NDArray[np.float64]) -> float:
        """The figure of values per row or positive."""
        mean = float(values.mean())
        return mean**0.5 if self.is_root else mean


LOG_LOSS, RMSE = Figure("LogLoss"), Figure("RMSE", is_root=True)
NDCG = Figure("NDCG@10", smaller_is_better=False)


class Judgement(NamedTuple):
    """A model beside a rival.

    Attributes:
        rival: Its name.
        value: Its figure.
        difference: Model minus rival, of means per row.
        p: Corrected for the number of rivals.
        word: One of `WORDS`, said of the model.
    """

    rival: str
    value: float
    difference: Difference
    p: float
    word: str


class Verdict(NamedTuple):
    """A model beside all of its rivals.

    Attributes:
        figure: What is compared.
        value: Of the model.
        over: What it is a mean over.
        judgements: One per rival.
    """

    figure: Figure
    value: float
    over: str
    judgements: tuple[Judgement, ...]

    def line(self) -> str:
        """All in one sentence."""
        parts = []
        for word in WORDS:
            own = [f"{j.rival} ({shown(j.value)})" for j in self.judgements if j.word == word]
            if own:
                joined = own[0] if len(own) == 1 else f"{', '.join(own[:-1])} and {own[-1]}"
                links = {"no significant difference": "from"}
                parts.append(f"{word} {links.get(word, 'than')} {joined}")
        said = "; ".join(parts) or "nothing to compare it with"
        return f"{self.figure.title} {shown(self.value)} over {self.over}: {said}."

    def panel(self) -> Panel:
        """The differences with their intervals."""
        what = f"difference in {'squared error' if self.figure.is_root else self.figure.title}"
        rows: list[list[object]] = [["this run", "", self.value, "", "", ""]]
        rows += [
            [
                j.rival,
                j.word,
                j.value,
                j.difference.mean,
                interval(j.difference.low, j.difference.high),
                p_value(j.p),
            ]
            for j in self.judgements
        ]
        head = ["method", "this run is", self.figure.title, what, "95 % interval", "p, Holm"]
        return Panel(
            "Beside simple methods",
            f"Paired tests over {self.over}; p is corrected for "
            f"{comparisons(len(self.judgements))}. A model that is not better than a simple "
            "method is not worth its cost.",
            Table(head, rows),
        )


def judged(
    figure: Figure,
    own: NDArray[np.float64],
    rivals: Mapping[str, NDArray[np.float64]],
    *,
    over: str,
) -> Verdict:
    """A model beside rivals, given what each row or positive counts, (N,) each."""
    found = {name: paired_difference(own, values) for name, values in rivals.items()}
    known = {name: one for name, one in found.items() if one is not None}
    corrected = holm([one.p for one in known.values()])
    judgements = tuple(
        Judgement(
            name,
            figure.of(rivals[name]),
            one,
            p,
            word_for(one, p, smaller_is_better=figure.smaller_is_better),
        )
        for (name, one), p in zip(known.items(), corrected, strict=True)
    )
    return Verdict(figure, figure.of(own), over, judgements)


def comparisons(count: int) -> str:
    """How many comparisons p-values are corrected for.

    Example:
        >>> comparisons(1), comparisons(3)
        ('1 comparison', '3 comparisons')
    """
    return f"{count} comparison{'' if count == 1 else 's'}"
