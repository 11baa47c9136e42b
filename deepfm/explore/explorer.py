"""What the page asks of a trained model, answered in plain data.

Decided here: a checkpoint that ranks items is asked about people and lists, any other about rows;
and how many pairs a page can be shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deepfm.checkpoint import Checkpoint
from deepfm.data.batch import Inputs
from deepfm.data.served_histories import ServedHistories
from deepfm.data.served_inputs import served_inputs
from deepfm.data.served_rows import ServedRows
from deepfm.data.sources.tables import SideTables, id_field
from deepfm.errors import DataError
from deepfm.evaluation.members import Members
from deepfm.evaluation.scoring import score_tasks
from deepfm.explanation import (
    HISTORY,
    features_of,
    logits_of,
    pair_effects,
    pair_terms,
    parts_of,
    single_effects,
)
from deepfm.explore.draws import Draws
from deepfm.explore.forms import Form, as_typed
from deepfm.explore.lists import Lists, Person
from deepfm.models.frozen import frozen
from deepfm.objectives import Task
from deepfm.several import scorer_of

PAIRED = 20  # features whose pairs are looked at: those that change the logit most
PAIR_DRAWS = 64  # rows that pairs are replaced by, of those of the single effects
SHOWN_PAIRS = 15
LONGEST_LIST = 100


class Target(NamedTuple):
    """A number that a row is explained by.

    Attributes:
        name: Of its column of predictions.
        task: That predicts it.
        class_: Its number, where each class has a logit.
    """

    name: str
    task: Task
    class_: int

    @property
    def what(self) -> str:
        """What is explained: what changes are changes of."""
        if self.task.predicts_numbers:
            return "prediction"
        return "logit" if self.task.num_class <= 2 else "log-odds"


class Explorer:
    """A model with all that a page about it needs.

    Threads may share it.

    Args:
        checkpoints: One, or several that agree; see `deepfm.several`.
        draws: What stands in for the values of an explained row.
        examples: Raw rows to begin with, as they would be typed, where no users are ranked for.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        draws: Draws,
        examples: Sequence[Mapping[str, str]] = (),
    ) -> None:
        loaded, scorer = checkpoints[0], scorer_of(checkpoints)
        self._names = [checkpoint.config.model_name for checkpoint in checkpoints]
        self._scorer = scorer.frozen() if isinstance(scorer, Members) else frozen(scorer)
        self._draws = draws
        self._schema = schema = loaded.encoders.schema
        self._batch_size = loaded.config.evaluation.batch_size
        tables = SideTables(loaded.users, loaded.items)
        histories = None
        if schema.built_fields and loaded.events is not None:
            histories = ServedHistories(loaded.events, schema)
        self._histories = histories
        self._rows = ServedRows(loaded.encoders, tables, histories)
        self.lists: Lists | None = None
        if ranks_items(loaded, self._scorer.tasks):
            fields = [field for field in schema.read_fields if field.group != "item"]
            self._form = Form(loaded.encoders, tables, fields)
            self.lists = Lists(loaded, self._scorer, self._rows, histories, self._form)
        else:
            more = []
            if histories is not None:
                more = [id_field(schema, "user").column, str(schema.time_column)]
            self._form = Form(loaded.encoders, tables, schema.read_fields, more)
        known = self._form.columns
        self._examples = [{k: v for k, v in row.items() if k in known} for row in examples]
        self._targets = [
            Target(name, task, 1 if task.num_class <= 2 else class_)
            for task in self._scorer.tasks
            for class_, name in enumerate(task.prediction_names())
        ]

    def about(self) -> dict[str, Any]:
        """What the page is made of."""
        lists = self.lists
        return {
            "models": self._names,
            "ranks": lists is not None,
            "user_column": lists.user_column if lists else None,
            "reads_history": lists.reads_history if lists else False,
            "columns": self._form.plain(),
            "targets": [{"name": target.name, "what": target.what} for target in self._targets],
            "is_score": self._scorer.tasks[0].by_pairs,
            "draws": self._draws.source,
            "examples": self._examples,
        }

    def ranked(self, person: Person, top: int) -> dict[str, Any]:
        """The list of a person, with what is known of them.

        Raises:
            DataError: The checkpoint has none, or a value cannot be read.
        """
        lists, row = self._of_lists(), self._of_lists().row(person)
        return {
            "known": lists.known(person.user),
            "history": lists.history(person, row),
            "items": lists.ranked(person, row, min(top, LONGEST_LIST)),
            "unknown": self._unknown(row, person.typed),
        }

    def scored(self, typed: Mapping[str, str]) -> dict[str, Any]:
        """What is predicted for a row that was typed."""
        row = self._row(typed)
        return {"predictions": self._predicted(row), "unknown": self._unknown(row, typed)}

    def explained_item(self, person: Person, item: str, target: int) -> dict[str, Any]:
        """What a person's fields and an item's change the logit of the two by."""
        lists = self._of_lists()
        typed = {name: as_typed(value) for name, value in self._form.values(person.typed).items()}
        values = {**lists.item_values(item), **(lists.known(person.user) or {}), **typed}
        row = lists.row(person)
        values[HISTORY] = f"{len(lists.history(person, row))} items"
        return self._explained(lists.with_item(row, item), values, target)

    def explained_row(self, typed: Mapping[str, str], target: int) -> dict[str, Any]:
        """What the fields of a row that was typed change its logit by."""
        return self._explained(self._row(typed), typed, target)

    def _explained(self, row: Inputs, values: Mapping[str, str], target: int) -> dict[str, Any]:
        """Parts, effects and pairs of one row.

        Args:
            values: By raw column, or `HISTORY`, to show beside the names of features.
        """
        chosen = self._target(target)
        model, draws, schema = self._scorer, self._draws, self._schema
        logits = logits_of(model, chosen.task, class_=chosen.class_, batch_size=self._batch_size)
        logit = float(logits(row)[0])
        parts = parts_of(model, row, logit)
        effects = single_effects(logits, row, draws.inputs, schema, draws.features)
        exact = pair_terms(model, row)
        if exact is not None:
            pairs = [{"features": term.features, "mean": term.value} for term in exact]
        else:
            paired = [effect.features[0] for effect in effects[:PAIRED]]
            some = draws.inputs.select(slice(0, PAIR_DRAWS))
            pairs = [effect._asdict() for effect in pair_effects(logits, row, some, schema, paired)]
        return {
            "what": chosen.what,
            "logit": logit,
            "predictions": self._predicted(row),
            "parts": parts and [{"name": name, "value": value} for name, value in parts.items()],
            "effects": [effect._asdict() for effect in effects],
            "pairs": pairs[:SHOWN_PAIRS],
            "pairs_are_exact": exact is not None,
            "num_pairs": len(pairs),
            "num_paired": min(len(effects), PAIRED) if exact is None else None,
            "num_features": len(features_of(schema)),
            "pair_draws": min(PAIR_DRAWS, draws.inputs.num_rows),
            "values": self._values(values),
            "draws": draws.source,
        }

    def _values(self, values: Mapping[str, str]) -> dict[str, str]:
        """By feature and by field, what it is in a row."""
        found = {}
        for name, fields in features_of(self._schema).items():
            for field in fields:
                columns = self._schema.fields[field].raw_columns
                text = ", ".join(values.get(column, "") for column in columns)
                found[field] = found[name] = text or values.get(name, "")
        return found

    def _row(self, typed: Mapping[str, str]) -> Inputs:
        values = self._form.values(typed)
        read = self._rows.read([dict.fromkeys(self._form.columns) | values])
        return served_inputs(read, self._histories)

    def _predicted(self, row: Inputs) -> dict[str, float]:
        logits = score_tasks(self._scorer, row, batch_size=self._batch_size)
        found: dict[str, float] = {}
        for task in self._scorer.tasks:
            columns = task.prediction_columns(task.predicted(logits))
            found |= {name: float(values[0]) for name, values in columns.items()}
        return found

    def _unknown(self, row: Inputs, typed: Mapping[str, str]) -> list[str]:
        """The columns with a typed value that training has not seen."""
        found = []
        for field, id_ in zip(self._schema.sparse_fields, row.sparse[0].tolist(), strict=True):
            given = [name for name in field.raw_columns if typed.get(name, "").strip()]
            if field.encoder.counts_unknown and id_ == 0:
                found += given
        return list(dict.fromkeys(found))

    def _target(self, number: int) -> Target:
        if not 0 <= number < len(self._targets):
            raise DataError(f"target: expected below {len(self._targets)}, found {number}")
        return self._targets[number]

    def _of_lists(self) -> Lists:
        if self.lists is None:
            raise DataError("the checkpoint ranks no items")
        return self.lists


def ranks_items(checkpoint: Checkpoint, tasks: Sequence[Task]) -> bool:
    """Whether lists can be made: there are items, and one number puts them in order."""
    schema = checkpoint.encoders.schema
    has_both = schema.user_field is not None and schema.item_field is not None
    tables = (checkpoint.users, checkpoint.items, checkpoint.history)
    ordered = len(tasks) == 1 and tasks[0].num_class == 1 and tasks[0].main.ranks
    return has_both and ordered and all(table is not None for table in tables)
