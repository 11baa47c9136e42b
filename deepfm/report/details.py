"""What only the model itself can tell: which fields count, which pairs, what lies beside what.

Decided here: how many rows each of these looks at, so that a page takes seconds.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import torch

from deepfm.data.batch import Inputs
from deepfm.evaluation.measures import Array
from deepfm.evaluation.permutation import permutation_importance
from deepfm.evaluation.scoring import score_tasks
from deepfm.evaluation.segments import segment_figures
from deepfm.models.layers.tables import is_wide
from deepfm.models.pair_strengths import pair_strengths
from deepfm.report.fields import exchangeable, exchanged, field_segments, training_counts
from deepfm.report.importance import importance_panel
from deepfm.report.item_map import MOST_ITEMS, Items, item_map
from deepfm.report.page import Section
from deepfm.report.pairs import pairs_panel
from deepfm.report.panel import Panel
from deepfm.report.runs import Loaded, ReportedRun
from deepfm.report.scores import TaskScores
from deepfm.report.segments import segment_panel

_SHUFFLES = 5
_SCORED = 200_000  # rows that all shuffles score together, about
_FEWEST, _MOST = 500, 10_000  # rows of each
_PAIR_ROWS = 2_000
_SHOWN = 6  # parts of rows that are shown at once; the others are folded
FIGURES = {"binary": ("auc", "AUC"), "number": ("rmse", "RMSE"), "classes": ("logloss", "LogLoss")}


def segments(
    run: ReportedRun,
    loaded: Loaded,
    *,
    prefix: str,
    may_go_on: Callable[[], bool],
    runs: int = 1,
) -> Section:
    """AUC and calibration by popularity of the item and by each field, a panel each.

    Args:
        may_go_on: Asked before each further panel.
        runs: How many share the page; of several only the first panels are there.
    """
    panels: list[Panel] = []
    for number, task in enumerate(run.valid.tasks):
        if not task.has_both_classes:
            continue
        for place, panel in enumerate(_segments(task, loaded, f"{prefix}-segments-{number}")):
            panels.append(panel)
            if not may_go_on() or (runs > 1 and place + 1 == _SHOWN):
                break
    return Section(
        f"{prefix}-segments",
        f"Parts of the rows{_of(run)}",
        "The line is the AUC of all rows. Intervals are of 95 %; where they overlap, nothing is "
        "said yet.",
        panels[:_SHOWN],
        panels[_SHOWN:],
    )


def _segments(task: TaskScores, loaded: Loaded, name: str) -> Iterator[Panel]:
    assert task.score is not None
    of_task = f" ({task.name})" if task.name else ""
    overall = task.auc()
    for place, found in enumerate(field_segments(loaded.rows, loaded.data.train, loaded.encoders)):
        inside = found.segments._replace(of_row=found.segments.of_row[task.inside])
        figures = segment_figures(task.label, task.score, task.logit, inside)
        if len(figures) > 1:
            title = f"{found.title}{of_task}"
            yield segment_panel(title, found.hint, figures, overall, name=f"{name}-{place}")


def inside_the_model(run: ReportedRun, loaded: Loaded, *, prefix: str, runs: int = 1) -> Section:
    """Importance of fields, strength of their pairs, and the map of items.

    Args:
        runs: How many share the page; of several the maps have fewer items.
    """
    panels = [
        _importance(task, number, loaded, f"{prefix}-importance-{number}")
        for number, task in enumerate(run.valid.tasks)
        if _has_figure(task)
    ]
    panels += _pairs(loaded, f"{prefix}-pairs")
    if (found := _items(loaded, max(60, MOST_ITEMS // runs))) is not None:
        panels.append(item_map(*found, name=f"{prefix}-items"))
    return Section(f"{prefix}-model", f"Inside the model{_of(run)}", "", panels)


def _has_figure(task: TaskScores) -> bool:
    return len(task.label) > 1 and (task.kind != "binary" or task.has_both_classes)


def _importance(task: TaskScores, number: int, loaded: Loaded, name: str) -> Panel:
    """Fields are shuffled as they are encoded: a row has the value of another row, as it stands."""
    columns = exchangeable(loaded.rows.schema)
    inside = np.flatnonzero(task.inside)
    most = int(np.clip(_SCORED / (_SHUFFLES * len(columns)), _FEWEST, _MOST))
    if len(inside) > most:
        drawn = np.sort(np.random.default_rng(0).choice(len(inside), most, replace=False))
    else:
        drawn = np.arange(len(inside))
    inputs = loaded.rows.inputs.select(torch.from_numpy(inside[drawn]))
    own = loaded.tasks[number]

    def predict(rows: pa.Table) -> Array:
        order = {field: rows[field].to_numpy() for field in columns}
        moved = exchanged(inputs, columns, order)
        return own.predicted(score_tasks(loaded.model, moved, batch_size=4096))

    table = pa.table({field: np.arange(len(drawn)) for field in columns})
    figure, title = FIGURES[task.kind]
    label = task.label[drawn]
    if task.kind == "binary" and len(np.unique(label)) < 2:
        figure, title = "logloss", "LogLoss"
    found = permutation_importance(predict, table, label, figure=figure, repeats=_SHUFFLES)
    panel = importance_panel(found, title, len(drawn), name=name)
    return panel._replace(title=f"{panel.title} ({task.name})") if task.name else panel


def _pairs(loaded: Loaded, name: str) -> list[Panel]:
    rows = np.arange(len(loaded.rows))[:_PAIR_ROWS]
    inputs: Inputs = loaded.rows.inputs.select(torch.from_numpy(rows))
    model = loaded.first_model.eval()
    return [
        pairs_panel(found, len(rows), name=f"{name}-{found.part}")
        for found in pair_strengths(model, inputs.to(model.device))
    ]


def _items(loaded: Loaded, most: int) -> tuple[Items, int] | None:
    """The items with the most training rows, and how many there are."""
    schema, data = loaded.rows.schema, loaded.data
    if schema.item_field is None:
        return None
    field = schema.fields[schema.item_field]
    tables = loaded.first_model.embedding.tables
    own = [
        name
        for name, table in tables.logical.items()
        if table.base == field.embedding_name and not is_wide(table.suffix)
    ]
    if not own or field not in schema.sparse_fields:
        return None
    table = tables[own[0]].detach().float().cpu().numpy()
    place = schema.sparse_fields.index(field)
    counts = training_counts(data.train, place, len(table))
    if field.padding_idx is not None:
        counts[field.padding_idx] = 0
    kept = np.argsort(-counts, kind="stable")[:most]
    kept = kept[counts[kept] > 0]
    if len(kept) < 3:
        return None
    titles = _titles(loaded, field.name, kept)
    of_items = int((counts > 0).sum())
    return Items(titles, counts[kept], table[kept].astype(np.float64)), of_items


def _titles(loaded: Loaded, field: str, kept: Array) -> list[str]:
    """What items are called: by their titles, or by their raw ids."""
    schema, items = loaded.rows.schema, loaded.data.items
    names: dict[int, str] = {}
    if items is not None:
        encoded = loaded.encoders.encode(items, "item")
        of_group = [one for one in schema.sparse_fields if one.group == "item"]
        ids = encoded.sparse[:, [one.name for one in of_group].index(field)].tolist()
        column = schema.item_title_column
        if column is None or column not in items.column_names:
            column = schema.fields[field].raw_columns[0]
        names = dict(zip(ids, map(str, items[column].to_pylist()), strict=True))
    else:
        for reader, encoder in loaded.encoders.parts():
            values = getattr(encoder, "values", None)
            if reader.field.name == field and values is not None:
                names = {k + 1: str(value) for k, value in enumerate(values.to_pylist())}
    return [names.get(int(one), f"id {one}") for one in kept]


def _of(run: ReportedRun) -> str:
    return f": {run.name}" if run.name else ""
