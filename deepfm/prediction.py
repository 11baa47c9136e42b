"""Scores and recommendations from a checkpoint alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from deepfm.checkpoint import load_checkpoint
from deepfm.data.batch import Inputs
from deepfm.data.dataset import Catalogue
from deepfm.data.files import Rows, file_ending, first_line, is_header, read_rows
from deepfm.data.schema import RawTables
from deepfm.errors import DataError
from deepfm.evaluation.scoring import score, score_items
from deepfm.models.outputs import is_regression, predicted, prediction_columns


class Recommendation(NamedTuple):
    """One recommended item, with its title (None where the data has no titles)."""

    item: object
    title: str | None
    probability: float


class ScoredRows(NamedTuple):
    """Rows of a file with what the model says about them.

    Attributes:
        rows: As they were read.
        predictions: By column, (N,) float64: `probability`, of the positive class;
            `probability_0`, … of three classes or more; `prediction`, of a regression. Null for a
            row with a value that its field cannot read, if the field's policy is to drop such rows.
        unknown: Per field with a vocabulary, how many values training has not seen.
        bad: Per column, how many values could not be read.
    """

    rows: Rows
    predictions: dict[str, pa.Array]
    unknown: dict[str, int]
    bad: dict[str, int]


class Predictor:
    """A trained model together with everything it needs to read raw rows.

    Args:
        checkpoint: Path of a `best_model.pt` or `last.pt`.
        device: Where the model runs.
        batch_size: Rows per scoring batch; the checkpoint's `evaluation.batch_size` by default.

    Raises:
        CheckpointError: The checkpoint cannot be used.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        loaded = load_checkpoint(checkpoint)
        self.encoders = loaded.encoders
        self.schema = loaded.encoders.schema
        self.model = loaded.build_model().to(device)
        self.batch_size = batch_size or loaded.config.evaluation.batch_size
        self._tables = RawTables(None, loaded.users, loaded.items)
        self._history = loaded.history
        self._source = loaded.config.data.table
        self._losses = loaded.config.training.losses

    def predict(self, columns: pa.Table) -> np.ndarray:
        """Probability of the positive class for each raw row, (N,) float64.

        Of three classes or more, the probability of each, (N, C); of a regression the number, (N,).

        User and item columns that are missing are looked up by id; an id that training has not
        seen is served as unknown. Other columns are ignored.

        Raises:
            DataError: A column is missing that cannot be looked up, or a value cannot be read.
        """
        inputs = self.encoders.encode(self._tables.complete(self.schema, columns))
        return self._predicted(inputs)

    def predict_file(self, path: str | Path) -> Iterator[ScoredRows]:
        """The rows of a file of any size with what is predicted for them, as a stream.

        CSV, TSV, Parquet as in `deepfm.data.files.read_rows`. A text file of the kind that a
        declared table was trained on has that table's delimiter and encoding. If the table names
        its columns, a first line that repeats none of the names is a row; the label may be left
        out of the rows then.

        Raises:
            DataError: As in `predict`, with file and line.
        """
        for rows in read_rows([path], **self._form(Path(path))):
            try:
                columns = self._tables.complete(self.schema, rows.table)
                inputs, kept, bad = self.encoders.encode_rows(rows._replace(table=columns))
            except DataError as error:
                at_row = str(error).startswith(f"{path}:")
                raise error if at_row else DataError(f"{path}: {error}") from None
            known = prediction_columns(self._predicted(inputs), self._losses)
            predictions = {}
            for name, values in known.items():
                whole = np.full(len(columns), np.nan)
                whole[kept] = values
                predictions[name] = pa.array(whole, from_pandas=True)
            if len(kept) < len(columns):
                columns = columns.take(pa.array(kept))
            unknown = self._unknown(columns, inputs)
            yield ScoredRows(rows, predictions, unknown, bad)

    def knows_user(self, user: object) -> bool:
        """Whether the user stands in the user table.

        Raises:
            DataError: The checkpoint has no items to rank.
        """
        self._need_items()
        return self._position(user) is not None

    def recommend(self, user: object, *, top: int = 10) -> list[Recommendation]:
        """The items with the highest probability, without those the user has a history with.

        An unknown user is served as a new one: unknown features and no history.

        Raises:
            DataError: The checkpoint has no items to rank, or the data has context fields, which
                a list has no values for.
        """
        self._need_items()
        fields = self.schema.fields.values()
        if context := [field.name for field in fields if field.group == "context"]:
            raise DataError(f"recommend has no values for the context fields {', '.join(context)}")
        item_field = self.schema.fields[self.schema.item_field]
        row = self._user_row(user)
        own = [field.raw_columns for field in fields if field.group == "item"]
        for column in {column for columns in own for column in columns}:
            any_item = self._tables.items[column].slice(0, 1)  # each item replaces it by its own
            row = row.append_column(column, any_item)
        row = self._tables.complete(self.schema, row)
        items = np.arange(len(self._tables.items))
        if (position := self._position(user)) is not None:
            items = np.setdiff1d(items, self._history.items_of(position))
        catalogue = Catalogue.of(self.schema, self.encoders.encode(self._tables.items, "item"))
        inputs = self.encoders.encode(row)
        logits = score_items(
            self.model, inputs, items[None], catalogue, batch_size=self.batch_size
        )[0]
        best = np.argsort(-logits, kind="stable")[:top]
        titles = self.schema.item_title_column
        found = self._tables.items.take(items[best])
        return [
            Recommendation(item, title, float(probability))
            for item, title, probability in zip(
                found[item_field.column].to_pylist(),
                found[titles].to_pylist() if titles else [None] * len(best),
                predicted(logits[best], self._losses),
                strict=True,
            )
        ]

    def _predicted(self, inputs: Inputs) -> np.ndarray:
        logits = score(self.model, inputs, batch_size=self.batch_size)
        return predicted(logits, self._losses)

    def _need_items(self) -> None:
        if self._history is None:
            raise DataError(
                "the checkpoint has no items to rank: it was not trained with split_strategy "
                "leave_one_out"
            )
        if self.model.num_class != 1 or is_regression(self._losses):
            raise DataError("the checkpoint ranks no items: it does not predict one probability")

    def _form(self, path: Path) -> dict[str, Any]:
        """How a file is to be read: the arguments of `read_rows`."""
        table, ending = self._source, file_ending(path)
        if table is None or ending == ".parquet":
            return {}
        form: dict[str, Any] = {}
        if ending not in (".csv", ".tsv") or ending in map(file_ending, table.files):
            form = {"delimiter": table.delimiter, "encoding": table.encoding}
        if not table.columns:
            return form
        cells = first_line(path, **form)
        if is_header(cells, table.columns):
            return form
        names = list(table.columns)
        if len(cells) == len(names) - 1 and self.schema.label_field in names:
            names.remove(self.schema.label_field)
        return form | {"columns": names}

    def _unknown(self, columns: pa.Table, inputs: Inputs) -> dict[str, int]:
        counts = {}
        for field, ids in zip(self.schema.sparse_fields, inputs.sparse.unbind(1), strict=True):
            has_vocabulary = not (field.hash_buckets or field.quantiles or field.has_fixed_ids)
            if has_vocabulary and field.column in columns.column_names:
                absent = columns[field.column].null_count if field.default is None else 0
                counts[field.name] = max(int((ids == 0).sum()) - absent, 0)
        return counts

    def _user_row(self, user: object) -> pa.Table:
        return pa.table({self.schema.fields[self.schema.user_field].column: pa.array([user])})

    def _position(self, user: object) -> int | None:
        return self._tables.positions(self.schema, self._user_row(user), "user")[0].as_py()
