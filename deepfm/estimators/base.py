"""What the scikit-learn estimators share: reading rows, fitting, files, importance.

A fitted estimator holds a checkpoint. Pickle and joblib keep it as the bytes of its file, which
are read as any checkpoint is, without running what stands in them.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from deepfm.checkpoint import checkpoint_of_bytes, load_checkpoint
from deepfm.errors import CheckpointError, ConfigError, shown
from deepfm.estimators.columns import (
    Column,
    is_frame,
    name_of,
    position_names,
    table_of,
    times_of,
    with_whole_ids,
)
from deepfm.estimators.fitting import Labelled, Wanted, fitted
from deepfm.estimators.held_out import is_held_out
from deepfm.evaluation.permutation import permutation_importance
from deepfm.prediction import Predictor, Recommendation, ScoredItem
from deepfm.results import Importances
from deepfm.utils.logging import LOGGER


class CTREstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn comes without types
    """A model of deepfm that is fitted on rows in memory.

    Fields and settings are those that `deepfm describe` guesses from the rows that train. A
    `validation_fraction` of the rows that are fitted is held out, the newest with `time`, else
    drawn class by class: training stops when their loss falls no more, and the best epoch is kept.
    Where fewer than ten rows would be held out, and with a fraction of 0, all rows train for all
    epochs.

    Args:
        model: Its name, as `deepfm models` lists it.
        settings: Of a config, as `{"training.lr": 1e-3, "dnn": {"hidden_units": [64]}}`.
        fields: What each field reads, as below `data.table.fields` of a config; None: they are
            guessed.
        user, item: Columns, by name or position, that say whose row it is and what it is about;
            with both there is `recommend`.
        time: The column that says when it was.
        validation_fraction: Of the rows, at least 0, below 1.
        random_state: Of weights, order and dropout.

    Attributes:
        n_features_in_, feature_names_in_: As scikit-learn has them.
        history_: An Arrow table with a row per epoch.
        checkpoint_: What was trained, with all that prediction needs.
        predictor_: The `deepfm.Predictor` of it.
    """

    def __init__(
        self,
        model: str = "deepfm",
        *,
        settings: Mapping[str, Any] | None = None,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
        user: Column | None = None,
        item: Column | None = None,
        time: Column | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = 42,
    ) -> None:
        self.model = model
        self.settings = settings
        self.fields = fields
        self.user = user
        self.item = item
        self.time = time
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        eval_set: tuple[Any, Any] | Sequence[tuple[Any, Any]] | None = None,
    ) -> Self:
        """Train on labelled rows, and return the estimator.

        Args:
            X: N rows as a frame of pandas or polars, an Arrow table, or an array (N, F).
            y: The label of each, (N,).
            sample_weight: How much each row counts in the loss, (N,); a row of 0 is left out.
            eval_set: Other rows with their labels, `(X, y)`, in the place of held-out ones.

        Raises:
            ValueError: Rows or labels are none that can be fitted.
            ConfigError: An argument or a setting is wrong.
            DataError: A value cannot be read.
        """
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                f"expected at least 0 and below 1, found {shown(self.validation_fraction)}",
                key="validation_fraction",
            )
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        rows = self._rows(X, reset=True)
        given = Labelled(rows, self._learnt_labels(y))
        check_consistent_length(np.empty(len(rows)), given.label)
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, given.label, ensure_non_negative=True)
            if not weight.any():
                raise ValueError("Sample weights must contain at least one non-zero number.")
            given = given._replace(weight=weight).where(weight > 0)
        names = rows.column_names
        user, item, time = (
            name_of(getattr(self, key), names, key) for key in ("user", "item", "time")
        )
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31)
        wanted = Wanted(
            self.model, self.settings or {}, self.fields, self._learnt_classes(), int(seed),
            user, item, time,
        )  # fmt: skip
        with _without_advice():
            found = fitted(*self._divided(given, eval_set, wanted), wanted)
        self.checkpoint_ = found.checkpoint
        self.predictor_ = Predictor(found.checkpoint)
        self.history_ = pa.Table.from_pylist(found.history)
        return self

    def recommend(
        self, user: object, *, top: int = 10, **options: Any
    ) -> list[Recommendation] | list[ScoredItem]:
        """Return the best items for a user, without those that the user has a row with.

        Args:
            user: An id; of one that no row has, a new user.
            top: How many.
            options: As those of `deepfm.Predictor.recommend`.

        Raises:
            ConfigError: `user` or `item` is not given to the estimator.
            DataError: Rows are not described by their user and item alone.
        """
        check_is_fitted(self)
        if self.user is None or self.item is None:
            raise ConfigError(f"recommend needs {type(self).__name__}(user=…, item=…)")
        return self.predictor_.recommend(user, top=top, **options)

    def importance(
        self,
        X: Any,
        y: Any,
        *,
        columns: Sequence[Column] | None = None,
        figure: str | None = None,
        repeats: int = 5,
        random_state: int = 0,
    ) -> Importances:
        """Return how much worse the predictions of some rows are without each column.

        The values of a column are shuffled among the rows, as often as `repeats` says. Give rows
        that were not fitted.

        Args:
            X, y: As in `fit`, N of them.
            columns: By name or position; None: all.
            figure: `auc` or `logloss` of classes, `rmse` of numbers; None: LogLoss or RMSE.

        Raises:
            ConfigError: A column or the figure is none.
            DataError: There are fewer than two rows, or no AUC of them.
        """
        check_is_fitted(self)
        rows, label = self._rows(X, reset=False), self._known_labels(y)
        known = self._figures()
        if figure is None:
            figure = known[0]
        if figure not in known:
            raise ConfigError(f"expected {' or '.join(known)}, found {shown(figure)}", key="figure")
        names = rows.column_names
        chosen = [name_of(column, names, "columns") for column in columns or names]
        found = permutation_importance(
            self._predicted,
            rows,
            label,
            [name for name in chosen if name is not None],
            figure=figure,
            repeats=repeats,
            seed=random_state,
        )
        return Importances(figure, len(rows), tuple(found))

    def save(self, path: str | Path) -> None:
        """Write the estimator as a checkpoint, which the commands and `deepfm.load` read, too.

        Raises:
            ConfigError: An argument is no plain data.
            DeepFMError: The disk refuses.
        """
        check_is_fitted(self)
        said = {
            "name": type(self).__name__,
            "arguments": {key: _plain(value, key) for key, value in self.get_params().items()},
            "features": self.n_features_in_,
            "names": [str(name) for name in getattr(self, "feature_names_in_", ())],
            "history": self.history_.to_pylist(),
            **self._said_of_labels(),
        }
        replace(self.checkpoint_, estimator=said).save(Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return an estimator that `save` wrote; nothing that stands in the file is run.

        Raises:
            CheckpointError: The file is missing, damaged, or of another estimator.
        """
        checkpoint = load_checkpoint(path)
        said = checkpoint.estimator
        if said is None:
            raise CheckpointError(f"{path}: the checkpoint of a run, which deepfm.load reads")
        if (name := said.get("name")) != cls.__name__:
            raise CheckpointError(f"{path}: of a {shown(name)}, found {cls.__name__}.load")
        try:
            made = cls(**said["arguments"])
            made.n_features_in_ = int(said["features"])
            if said["names"]:
                made.feature_names_in_ = np.array(said["names"], dtype=object)
            made.history_ = pa.Table.from_pylist(said["history"])
            made._set_labels(said)
        except (LookupError, TypeError, ValueError, pa.ArrowException) as error:
            raise CheckpointError(f"{path}: damaged: {type(error).__name__}: {error}") from None
        made.checkpoint_ = replace(checkpoint, estimator=None)
        made.predictor_ = Predictor(made.checkpoint_)
        return made

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "checkpoint_" in state:
            state.pop("predictor_")
            state["checkpoint_"] = state["checkpoint_"].to_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(data := vars(self).get("checkpoint_"), bytes):
            self.checkpoint_ = checkpoint_of_bytes(data, f"a pickled {type(self).__name__}")
            self.predictor_ = Predictor(self.checkpoint_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "predictor_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags

    def _rows(self, X: Any, *, reset: bool) -> pa.Table:
        """Rows as an Arrow table, whose columns are those of `fit`, or become those (`reset`)."""
        if isinstance(X, pa.RecordBatch):
            X = pa.Table.from_batches([X])
        if not is_frame(X):
            X = check_array(X, dtype=None, ensure_all_finite=False, estimator=self)
        validate_data(self, X, reset=reset, skip_check_array=True)
        rows = table_of(X)
        # What has no names has those of `fit` by position, as scikit-learn compares columns.
        names = getattr(self, "feature_names_in_", None)
        rows = rows.rename_columns(
            position_names(rows.num_columns) if names is None else names.tolist()
        )
        if reset and not (len(rows) and rows.num_columns):
            raise ValueError(
                f"expected a row and a column or more, found {len(rows)} sample(s) and "
                f"{rows.num_columns} feature(s)"
            )
        names = rows.column_names
        ids = [name_of(getattr(self, key), names, key) for key in ("user", "item")]
        return with_whole_ids(rows, [name for name in ids if name is not None])

    def _divided(
        self,
        given: Labelled,
        eval_set: tuple[Any, Any] | Sequence[tuple[Any, Any]] | None,
        wanted: Wanted,
    ) -> tuple[Labelled, Labelled | None]:
        """The rows that train, and those that stop training, if there are any."""
        if eval_set is not None:
            if len(eval_set) == 1:
                (eval_set,) = eval_set
            if len(eval_set) != 2:
                raise ConfigError("expected (X, y)", key="eval_set")
            others, label = eval_set
            return given, Labelled(self._rows(others, reset=False), self._known_labels(label))
        if len(wanted.classes) == 1:  # nothing can be measured by
            return given, None
        classes = given.label if wanted.classes else np.zeros(len(given.label))
        time = None if wanted.time is None else times_of(given.rows, wanted.time)
        held = is_held_out(classes, self.validation_fraction, seed=wanted.seed, time=time)
        if held is None:
            return given, None
        return given.where(~held), given.where(held)._replace(weight=None)

    def _predicted(self, rows: pa.Table) -> np.ndarray:
        """What the model says of rows in the columns of `fit`."""
        return self.predictor_.predict(rows)

    # What a kind of estimator says for itself.

    def _learnt_labels(self, y: Any) -> np.ndarray:
        """The labels as a model learns them, (N,); what classes they have is kept."""
        raise NotImplementedError

    def _known_labels(self, y: Any) -> np.ndarray:
        """Labels of other rows, (N,), of the same classes."""
        raise NotImplementedError

    def _learnt_classes(self) -> tuple[str, ...]:
        """Names of the classes by the number that a model learns; none of numbers to predict."""
        return ()

    def _figures(self) -> tuple[str, ...]:
        """What importance may be measured by, the default first."""
        raise NotImplementedError

    def _said_of_labels(self) -> dict[str, Any]:
        """What is saved of the labels."""
        return {}

    def _set_labels(self, said: Mapping[str, Any]) -> None:
        """Take over what was saved of the labels."""


def label_array(y: Any, estimator: object) -> np.ndarray:
    """Labels as an array (N,), of which none is absent.

    Raises:
        ValueError: They have another shape, or one is NaN or absent.
    """
    if isinstance(y, pa.Array | pa.ChunkedArray):
        y = y.to_numpy(zero_copy_only=False) if isinstance(y, pa.Array) else y.to_numpy()
    y = check_array(
        y, dtype=None, ensure_2d=False, ensure_min_samples=0, input_name="y", estimator=estimator
    )
    return np.asarray(column_or_1d(y, warn=True))


def _plain(value: Any, key: str) -> Any:
    """An argument as a checkpoint holds it.

    Raises:
        ConfigError: It is no plain data.
    """
    if isinstance(value, Mapping):
        return {str(name): _plain(item, key) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, key) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"expected plain data to save, found {shown(value)}", key=key)


@contextmanager
def _without_advice() -> Iterator[None]:
    """While it lasts, nothing is advised about settings, which follow from the rows here."""
    before = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOGGER.setLevel(before)
