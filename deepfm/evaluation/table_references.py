"""What simple methods reach on the rows of a table: base rate, linear model, boosting.

All three see the encoded rows that a model sees, so a value that `min_count` makes unknown is
unknown here too, and an absent number is what the field makes of it. What has to be chosen is
chosen on validation rows; nothing looks at test rows. Training rows count with their weights.

Decided here: at most `MAX_ROWS` rows are learned from, drawn by seed, and as many validation rows
choose; every row of the splits is predicted. A prediction is a logit, (N,) or (N, C), or a
number, (N,).

Shapes: N rows, C classes, K columns.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deepfm.data.dataset import TabularDataset
from deepfm.evaluation import measures
from deepfm.evaluation.base_rate import constant_of, figure, figure_of, kind_of
from deepfm.evaluation.table_columns import CategoryColumns, Ids, Numbers, OneHotColumns
from deepfm.objectives import Task
from deepfm.utils.seeding import generator

MAX_ROWS = 1_000_000
PENALTIES = (100.0, 10.0, 3.0, 1.0, 0.1)  # of linear models; logistic regression: 1 / C
RIDGES = (1000.0, 100.0, 10.0, 1.0, 0.1)
LEARNING_RATE, MOST_TREES, PATIENCE = 0.1, 1000, 30  # of boosting
_TREES_AT_ONCE = 50
_ROWS_AT_ONCE = 65_536


class Rows(NamedTuple):
    """Rows that a reference learns from, or chooses by.

    Attributes:
        dataset: Whose rows they are.
        rows: Their numbers, ascending, (N,) int64.
        label, weight: (N,); validation rows count alike, whatever their weight.
    """

    dataset: TabularDataset
    rows: Ids
    label: Numbers
    weight: Numbers


class Learner(Protocol):
    """A fitted reference."""

    def __call__(self, dataset: TabularDataset) -> Numbers:
        """The predictions of all rows of a split."""


class Reference(NamedTuple):
    """What a reference predicts.

    Attributes:
        valid, test: Of each row, (N,) or (N, C); `test` None where there is no such split.
    """

    valid: Numbers
    test: Numbers | None


def table_references(
    train: TabularDataset,
    valid: TabularDataset,
    test: TabularDataset | None,
    task: Task,
    *,
    seed: int,
    max_rows: int = MAX_ROWS,
) -> dict[str, Reference]:
    """Fit every reference, and predict.

    Args:
        task: What is predicted.
        seed: Of the rows that are drawn, and of folds.
        max_rows: Rows to learn from, and to choose by.
    """
    rows = _drawn(train, task, max_rows, seed)
    chosen_by = _drawn(valid, task, max_rows, seed)
    found = {}
    for name, fit in TABLE_REFERENCES.items():
        predict = fit(rows, chosen_by, kind_of(task), task.num_class, seed)
        found[name] = Reference(predict(valid), None if test is None else predict(test))
    return found


def title_of(name: str, task: Task) -> str:
    """What a reference is called in a table."""
    if kind_of(task) == "number":
        return {"base_rate": "mean", "linear": "ridge regression"}.get(name, name)
    return {"base_rate": "base rate", "linear": "logistic regression"}.get(name, name)


def reported_of(task: Task) -> tuple[str, ...]:
    """The metrics that are reported of a reference."""
    kind = kind_of(task)
    first = {"binary": ("auc",), "classes": ("accuracy",), "number": ()}[kind]
    return (*first, figure_of(kind))


def reference_metrics(
    task: Task, dataset: TabularDataset, predicted: Numbers
) -> dict[str, float | None]:
    """The metrics of `reported_of`, over the task's space if it is of that only.

    None where one does not exist.
    """
    label = task.label_of(dataset.label, dataset.schema).numpy().astype(np.float64)
    if (rows := _rows_of(dataset, task)) is not None:
        label, predicted = label[rows], predicted[rows]
    if not len(label):
        return dict.fromkeys(reported_of(task))
    kind = kind_of(task)
    values = [figure(kind, label, predicted)]
    if kind == "binary":
        values.insert(0, measures.auc(label, predicted))
    elif kind == "classes":
        values.insert(0, measures.accuracy(label, predicted, threshold=0.5, top_k=1))
    return dict(zip(reported_of(task), values, strict=True))


def base_rate(train: Rows, valid: Rows, kind: str, num_class: int, seed: int) -> Learner:
    """The share of positives, of each class, or the mean of the training rows, for every row."""
    constant = constant_of(kind, train.label, train.weight, num_class)
    return lambda dataset: np.broadcast_to(constant, (len(dataset), *constant.shape)).copy()


def linear(train: Rows, valid: Rows, kind: str, num_class: int, seed: int) -> Learner:
    """Logistic regression, of a number ridge regression, on one column per category.

    Numbers are standardised. The penalty is the best of five on validation rows, of
    which the weaker ones are tried as long as that helps.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    columns = OneHotColumns(train.dataset, train.rows)
    known, held_out = (columns(rows.dataset, rows.rows) for rows in (train, valid))
    best: tuple[float, Any] | None = None
    for penalty in RIDGES if kind == "number" else PENALTIES:
        if kind == "number":
            model = Ridge(alpha=penalty, solver="sparse_cg", tol=1e-6)
        elif _is_constant(train.label):
            return base_rate(train, valid, kind, num_class, seed)
        else:
            model = LogisticRegression(C=1 / penalty, solver="newton-cg", max_iter=50, tol=1e-5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a step more would change no digit that is shown
            model.fit(known, train.label, sample_weight=train.weight)
        loss = _loss(kind, valid.label, _predicted(model, held_out, kind, num_class))
        if best is not None and loss >= best[0]:
            break  # it is worse with a weaker penalty from here on
        best = loss, model
    assert best is not None
    model = best[1]
    return lambda dataset: _in_parts(
        dataset, lambda rows: _predicted(model, columns(dataset, rows), kind, num_class)
    )


def boosting(train: Rows, valid: Rows, kind: str, num_class: int, seed: int) -> Learner:
    """Gradient boosting over histograms, of categories and numbers as they are.

    As many trees as are best on validation rows; the search ends after `PATIENCE` rounds without
    a better one.

    Source: G. Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS
    2017, of which scikit-learn's is a version.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if kind != "number" and _is_constant(train.label):
        return base_rate(train, valid, kind, num_class, seed)
    targets = train.label[:, None]
    if kind == "classes":
        targets = (targets == np.arange(num_class)).astype(np.float64)
    columns = CategoryColumns(train.dataset, train.rows, targets, train.weight, seed)
    known, held_out = columns.of_training(), columns(valid.dataset, valid.rows)
    if not known.shape[1]:
        return base_rate(train, valid, kind, num_class, seed)
    maker = HistGradientBoostingRegressor if kind == "number" else HistGradientBoostingClassifier

    def grown(trees: int) -> Any:
        return maker(
            learning_rate=LEARNING_RATE,
            max_iter=trees,
            categorical_features=columns.is_category,
            early_stopping=False,
            random_state=seed,
            warm_start=True,
        )

    model = maker(
        learning_rate=LEARNING_RATE,
        max_iter=1,
        categorical_features=columns.is_category,
        early_stopping=False,
        random_state=seed,
        warm_start=True,
    )
    trees, best_trees, best_loss = 0, 0, np.inf
    while trees < MOST_TREES and trees - best_trees < PATIENCE:
        more = min(max(_TREES_AT_ONCE, trees // 2), MOST_TREES - trees)
        model.set_params(max_iter=trees + more)
        model.fit(known, train.label, sample_weight=train.weight)
        for number, scores in enumerate(_staged(model, held_out, kind, num_class), start=1):
            if number > trees and (loss := _loss(kind, valid.label, scores)) < best_loss:
                best_trees, best_loss = number, loss
        trees += more

    def predict(rows: Ids, dataset: TabularDataset) -> Numbers:
        staged = _staged(model, columns(dataset, rows), kind, num_class)
        return next(itertools.islice(staged, best_trees - 1, None))

    return lambda dataset: _in_parts(dataset, lambda rows: predict(rows, dataset))


Fit = Callable[[Rows, Rows, str, int, int], Learner]
TABLE_REFERENCES: dict[str, Fit] = {
    "base_rate": base_rate,
    "linear": linear,
    "boosting": boosting,
}


def _drawn(dataset: TabularDataset, task: Task, max_rows: int, seed: int) -> Rows:
    """The rows of a split, or so many of them."""
    inside = _rows_of(dataset, task)
    rows = np.arange(len(dataset)) if inside is None else inside
    if len(rows) > max_rows:
        rows = np.sort(generator(seed, "references").choice(rows, max_rows, replace=False))
    label = task.label_of(dataset.label, dataset.schema).numpy()[rows].astype(np.float64)
    of_rows = task.weight_of(dataset.label, dataset.weight, dataset.schema)
    weight = np.ones(len(rows)) if of_rows is None else of_rows.double().numpy()[rows]
    return Rows(dataset, rows, label, weight)


def _rows_of(dataset: TabularDataset, task: Task) -> NDArray[np.int64] | None:
    """The rows of a task's space, if it has no meaning outside of it; None: all rows."""
    inside = task.in_space(dataset.label, dataset.schema) if task.is_of_space else None
    return None if inside is None else np.flatnonzero(inside.numpy())


def _in_parts(dataset: TabularDataset, predict: Callable[[Ids], Numbers]) -> Numbers:
    """The predictions of all rows of a split, which need not fit into memory as columns."""
    rows = np.arange(len(dataset))
    parts = [rows[at : at + _ROWS_AT_ONCE] for at in range(0, max(len(rows), 1), _ROWS_AT_ONCE)]
    return np.concatenate([predict(part) for part in parts])


def _predicted(model: Any, columns: Any, kind: str, num_class: int) -> Numbers:
    """Logits or numbers that a fitted estimator gives."""
    if kind == "number":
        return np.asarray(model.predict(columns), np.float64)
    return _of_all_classes(model, model.decision_function(columns), kind, num_class)


def _staged(model: Any, columns: Numbers, kind: str, num_class: int) -> Iterator[Numbers]:
    """`_predicted` by the first tree, the first two, ..."""
    if kind == "number":
        yield from model.staged_predict(columns)
    else:
        for scores in model.staged_decision_function(columns):
            yield _of_all_classes(model, scores, kind, num_class)


def _of_all_classes(model: Any, scores: Numbers, kind: str, num_class: int) -> Numbers:
    """Logits with a column for classes that no training row has, too."""
    if kind == "binary":
        return scores.reshape(len(scores))
    if scores.ndim == 1:  # of two classes
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    if len(model.classes_) == num_class:
        return scores
    found = np.full((len(scores), num_class), scores.min() - np.log(1e6))
    found[:, model.classes_.astype(np.int64)] = scores
    return found


def _loss(kind: str, label: Numbers, predicted: Numbers) -> float:
    """What validation rows choose by; where they are of one class nothing does."""
    loss = figure(kind, label, predicted)
    return 0.0 if loss is None else loss


def _is_constant(label: Numbers) -> bool:
    return bool((label == label[0]).all())
