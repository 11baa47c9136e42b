"""How much worse a model predicts once the values of one column stand in other rows.

Shuffling a column leaves its values as they are and takes away what they say about a row. What a
column says that others say too is not seen: where two columns are copies, each alone costs little.

Shapes: N rows, C classes, R repeats.

Source: L. Breiman, "Random Forests", Machine Learning 45, 2001, section 10; of any fitted model in
A. Fisher, C. Rudin, F. Dominici, "All Models are Wrong, but Many are Useful", JMLR 20, 2019.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepfm.errors import DataError, nearest
from deepfm.evaluation.measures import Array, auc, log_loss, log_odds_of

Predict = Callable[[pa.Table], Array]  # N rows to (N,) probabilities or numbers, or (N, C)
Figure = Callable[[Array, Array], float]  # label and prediction; what is larger is worse


def one_minus_auc(label: Array, probability: Array) -> float:
    """Share of (positive, negative) pairs in the wrong order, a tie counting one half.

    Args:
        label: 0 or 1, (N,).
        probability: Or what else orders the rows, (N,).

    Raises:
        DataError: All labels are equal.
    """
    found = auc(label, probability)
    if found is None:
        raise DataError(f"expected labels of both classes, found {len(label):,} times {label[0]}")
    return 1 - found


def mean_log_loss(label: Array, probability: Array) -> float:
    """Mean negative logarithm of the probability of the label, in nats.

    Args:
        label: 0 or 1, or of C classes their number, (N,).
        probability: Of class 1, (N,), or of each class, (N, C).
    """
    if probability.ndim == 1:
        return log_loss(label, log_odds_of(probability))
    of_label = probability[np.arange(len(label)), label.astype(np.int64)]
    return float(np.mean(-np.log(np.maximum(of_label, np.exp(-100.0)))))


def root_mean_square(label: Array, number: Array) -> float:
    """Root of the mean squared difference of two numbers, (N,) each."""
    return float(np.sqrt(np.mean((label - number) ** 2)))


FIGURES: dict[str, Figure] = {
    "auc": one_minus_auc,
    "logloss": mean_log_loss,
    "rmse": root_mean_square,
}


class Importance(NamedTuple):
    """What a model loses with a column.

    Attributes:
        column: Its name.
        losses: How much worse the figure is after each shuffle, (R,): what AUC falls by, what
            LogLoss or RMSE rises by. About zero for a column that says nothing, below too.
    """

    column: str
    losses: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Over the shuffles."""
        return float(self.losses.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over the shuffles, of which a single one has none: 0."""
        return float(self.losses.std(ddof=1)) if len(self.losses) > 1 else 0.0


def permutation_importance(
    predict: Predict,
    table: pa.Table,
    label: Array,
    columns: Collection[str] | None = None,
    *,
    figure: str = "auc",
    seed: int = 0,
    repeats: int = 5,
) -> list[Importance]:
    """What each column is worth to a model, the most important one first.

    All columns are shuffled in the same R ways, so that what is found for one does not depend on
    which others are asked for. Costs 1 + R predictions of all rows for each column.

    Args:
        predict: Of N rows in the columns of `table`.
        table: N rows that the model was not trained on, unless what it has learnt by heart is to
            count.
        label: (N,).
        columns: Which to shuffle; None: all.
        figure: `auc`, `logloss` or `rmse`.
        seed: Of the shuffles.
        repeats: R.

    Raises:
        DataError: There is no such column, fewer than two rows, labels of another number, or for
            the AUC of one class only.
    """
    label = np.asarray(label)
    if len(table) < 2 or len(label) != len(table):
        raise DataError(
            f"expected two rows or more with a label each, found {len(table):,} rows and "
            f"{len(label):,} labels"
        )
    for name in columns or ():
        if name not in table.column_names:
            raise DataError(f"no column {name!r}; {nearest(name, table.column_names)}")
    measure = FIGURES[figure]
    orders = [np.random.default_rng([seed, k]).permutation(len(table)) for k in range(repeats)]
    whole = measure(label, predict(table))
    found = []
    for name in dict.fromkeys(table.column_names if columns is None else columns):
        place = table.column_names.index(name)
        shuffled = (
            table.set_column(place, table.field(place), table[name].take(pa.array(order)))
            for order in orders
        )
        losses = np.array([measure(label, predict(rows)) - whole for rows in shuffled])
        found.append(Importance(name, losses))
    return sorted(found, key=lambda one: -one.mean)
