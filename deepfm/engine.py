"""What answers for a trained model, whatever runs it; nothing here imports torch.

`deepfm.prediction.Predictor` is one by torch, `deepfm.runtime.Runtime` one by ONNX Runtime.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from deepfm.data.schema import DatasetSchema
from deepfm.data.sources.rows_given import Given


class Recommendation(NamedTuple):
    """One recommended item, with its title (None where the data has no titles)."""

    item: object
    title: str | None
    probability: float


class ScoredItem(NamedTuple):
    """A `Recommendation` of a model that only puts items in order: with its logit."""

    item: object
    title: str | None
    score: float


class CountedPredictions(NamedTuple):
    """Predictions for N rows, with what the values of these rows are to the model.

    Attributes:
        columns: By column, such as `probability`, (N,) float64.
        unknown: By field with a vocabulary, how many rows hold a value that training has not seen.
        missing: By field, how many rows hold no value, neither of their own nor looked up.
    """

    columns: dict[str, np.ndarray]
    unknown: dict[str, int]
    missing: dict[str, int]


class PredictedTask(Protocol):
    """What is predicted, as far as it shows in an answer; see `deepfm.objectives.Task`."""

    @property
    def name(self) -> str:
        """Empty where it is the model's only task."""
        ...

    @property
    def num_class(self) -> int:
        """1 where one logit stands for two classes, or for a number."""
        ...

    @property
    def by_pairs(self) -> bool:
        """Whether a score is predicted, which puts items in order and is no probability."""
        ...

    @property
    def ranks(self) -> bool:
        """Whether its one logit orders items."""
        ...

    @property
    def predicts_numbers(self) -> bool:
        """Whether numbers are predicted, and no probabilities."""
        ...

    def prediction_names(self) -> list[str]:
        """Names of the columns of predictions."""
        ...


class Engine(Protocol):
    """A trained model that takes raw rows; threads may share it."""

    @property
    def schema(self) -> DatasetSchema:
        """The fields that it reads."""
        ...

    @property
    def tasks(self) -> Sequence[PredictedTask]:
        """What it predicts."""
        ...

    def predict_tasks(self, rows: Given) -> dict[str, np.ndarray]:
        """Return what is predicted for each raw row by the tasks' names, (N,) or (N, C) float64."""
        ...

    def predict_counted(self, rows: Given) -> CountedPredictions:
        """Return what is predicted by column, and count unknown and missing values.

        Columns that fields do without are not warned of.
        """
        ...

    def example_row(self) -> dict[str, object]:
        """A row that can be read as far as can be known, without what is looked up."""
        ...

    def example_list(self) -> dict[str, object] | None:
        """Arguments that `recommend` can answer; None: there is nothing to rank."""
        ...

    def context_columns(self) -> tuple[str, ...]:
        """The columns that the `context` of `recommend` may have."""
        ...

    def knows_user(self, user: object) -> bool:
        """Return whether the user stands in the user table."""
        ...

    def recommend(
        self,
        user: object,
        *,
        top: int = 10,
        history: Sequence[object] | None = None,
        time: object = None,
        context: Mapping[str, object] | None = None,
        candidates: Sequence[object] | None = None,
        exclude: Collection[object] = (),
    ) -> list[Recommendation] | list[ScoredItem]:
        """Return the best items for a user; see `deepfm.prediction.Predictor.recommend`."""
        ...
