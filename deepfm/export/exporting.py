"""A checkpoint, or several as one, to a directory that is served without torch.

Decided here: what stands in the directory, and that it is whole or absent: it is written beside its
place and takes its name last, once the graphs have been compared with the model.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

import deepfm
from deepfm.checkpoint import Checkpoint
from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.plain import array_bytes, write_plain
from deepfm.errors import ConfigError, DeepFMError, nearest
from deepfm.evaluation.members import Members
from deepfm.export.graph_files import GRAPH_FILES, GraphFiles, Run
from deepfm.export.graphs import HalvesGraph, PairGraph, RowsGraph, groups_of, named, pair_scorers
from deepfm.export.parity import ATOL, lists_parity, rows_parity
from deepfm.export.programs import BATCH, program_of, row_dimensions
from deepfm.exported.files import file_digest
from deepfm.exported.layout import (
    ENCODERS,
    EVENTS,
    FORMAT,
    FORMAT_VERSION,
    INTERACTIONS,
    ITEM,
    ITEMS,
    MANIFEST,
    PAIR,
    PARITY,
    ROWS,
    SIGNATURE,
    USER,
    USERS,
    ExportedTask,
    InputLayout,
)
from deepfm.models.pairs import PairScorer
from deepfm.several import load_several, scorer_of
from deepfm.utils.extras import needed
from deepfm.utils.io import tensor_to_table
from deepfm.utils.places import AnyPath, path_of, refuse_remote

_EXAMPLE = 3  # rows that a graph is traced with
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pyarrow")


def export(
    checkpoints: Sequence[str | AnyPath],
    output: str | Path,
    *,
    format: str = "onnx",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a directory that `deepfm.runtime.load` reads, and return what is in `parity.json`.

    Args:
        checkpoints: Paths or URIs; of several the logits are averaged.
        output: A directory that is not there yet.
        format: `onnx`, or `pt2`, programs of `torch.export`.
        overwrite: Replace an export that is there.

    Raises:
        ConfigError: The format is unknown, a library is missing, or the directory is there.
        CheckpointError: A checkpoint cannot be used, or two do not agree.
        DeepFMError: The graphs do not give the logits of the model, or the disk refuses.
    """
    if format not in GRAPH_FILES:
        raise ConfigError(f"--format: unknown format {format!r}; {nearest(format, GRAPH_FILES)}")
    if format == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            needed(module, extra="onnx", wanted_by="deepfm export")
    refuse_remote(
        str(output), "--output", "an export is written there; `deepfm upload` takes it on"
    )
    output = Path(output)
    _refuse_existing(output, overwrite)
    loaded = load_several(list(checkpoints))
    scorer = scorer_of(loaded)
    members = (scorer if isinstance(scorer, Members) else Members((scorer,))).frozen()
    with _written_beside(output) as folder:
        with torch.no_grad():
            signature, parity = _write_graphs(GRAPH_FILES[format](folder), members, loaded[0])
        versions = {name: _version(name) for name in _LIBRARIES} | {"deepfm": deepfm.__version__}
        parity = {"tolerance": ATOL, "versions": versions, **parity}
        _write_json(folder / SIGNATURE, signature)
        _write_json(folder / PARITY, parity)
        _write_data(folder, loaded[0])
        _write_manifest(folder, format, checkpoints)
    return parity


def _write_graphs(
    files: GraphFiles, members: Members, checkpoint: Checkpoint
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The graphs, with what `signature.json` and `parity.json` say of them."""
    graph, layout, example, signature = _rows(members, checkpoint)
    outputs = graph.outputs(example)
    program = program_of(graph, example, row_dimensions(example, layout.names))
    files.write(program, ROWS, layout.names, outputs.names)
    graphs = signature["graphs"]
    scorers = pair_scorers(members.models) if signature["ranks"] else None
    if scorers is not None:
        graphs |= _write_halves(files, scorers)
    for name, described in graphs.items():
        described["file"] = f"{name}.{files.suffix}"

    def opened(name: str) -> Run:
        return files.opened(name, graphs[name]["outputs"])

    parity = {"rows": rows_parity(members, layout, outputs, opened(ROWS))}
    if scorers is not None:
        user, item, pair = map(opened, (USER, ITEM, PAIR))
        layouts = {side: InputLayout(members.schema, groups_of(side)) for side in (USER, ITEM)}
        parity["lists"] = lists_parity(
            scorers, layouts, lambda of_user, items: pair([*user(of_user), *item(items)])[0]
        )
    return signature, parity


def _write_halves(files: GraphFiles, scorers: Sequence[PairScorer]) -> dict[str, Any]:
    """The graphs of users, of items and of their pairs, with what `signature.json` says of them."""
    found: dict[str, Any] = {}
    halves: dict[str, list[Tensor]] = {}
    for side in (USER, ITEM):
        graph = HalvesGraph(scorers, side)
        layout = InputLayout(scorers[0].model.schema, groups_of(side))
        example = _example(layout)
        halves[side] = graph(example)
        names = [f"{side}_{k}" for k in range(len(halves[side]))]
        program = program_of(graph, example, row_dimensions(example, layout.names))
        files.write(program, side, layout.names, names)
        found[side] = {"inputs": layout.described(), "outputs": names}
    user, items = [half[:1] for half in halves[USER]], halves[ITEM]
    dimensions = [*({} for _ in user), *row_dimensions(items, found[ITEM]["outputs"])]
    program = program_of(PairGraph(scorers), [*user, *items], dimensions)
    inputs = [*found[USER]["outputs"], *found[ITEM]["outputs"]]
    files.write(program, PAIR, inputs, ["logit"])
    shapes: list[list[int | str]] = [[1, half.shape[1]] for half in user]
    shapes += [[BATCH, half.shape[1]] for half in items]
    described = [
        {"name": name, "type": "float32", "shape": shape}
        for name, shape in zip(inputs, shapes, strict=True)
    ]
    found[PAIR] = {"inputs": described, "outputs": ["logit"]}
    return found


def _rows(
    members: Members, checkpoint: Checkpoint
) -> tuple[RowsGraph, InputLayout, list[Tensor], dict[str, Any]]:
    """The module of rows, its inputs, an example of them, and `signature.json`."""
    schema = members.schema
    graph, layout = RowsGraph(members.models, members.calibrations), InputLayout(schema)
    example = _example(layout)
    outputs = graph.outputs(example)
    has_items = checkpoint.items is not None and checkpoint.history is not None
    tasks = [
        ExportedTask(
            name=task.name,
            num_class=task.num_class,
            by_pairs=task.by_pairs,
            ranks=task.ranks,
            predicts_numbers=task.predicts_numbers,
            predicts_logit=task.name not in outputs.predictions,
            columns=task.prediction_names(),
            output=named("prediction" if task.name in outputs.predictions else "logit", task.name),
        )
        for task in members.tasks
    ]
    signature = {
        "tasks": [task._asdict() for task in tasks],
        "ranks": has_items and len(tasks) == 1 and tasks[0].ranks,
        "batch_size": checkpoint.config.evaluation.batch_size,
        "graphs": {ROWS: {"inputs": layout.described(), "outputs": outputs.names}},
    }
    return graph, layout, example, signature


def _example(layout: InputLayout) -> list[Tensor]:
    """Rows to trace a graph with."""
    arrays: EncodedArrays = layout.random(_EXAMPLE, np.random.default_rng(0))
    ids = tuple(np.resize(one, (_EXAMPLE, max(one.shape[1], 2))) for one in arrays.sequence_ids)
    return [torch.from_numpy(a) for a in layout.given(arrays._replace(sequence_ids=ids))]


def _write_data(folder: Path, checkpoint: Checkpoint) -> None:
    """What raw rows are read with."""

    def to_table(value: Any) -> pa.Table | None:
        return tensor_to_table(value) if isinstance(value, np.ndarray) else None

    write_plain(folder / ENCODERS, checkpoint.encoders.to_dict(), to_table)
    for name, table in ((USERS, checkpoint.users), (ITEMS, checkpoint.items)):
        if table is not None:
            with pa.ipc.new_file(folder / name, table.schema) as writer:
                writer.write_table(table)
    if checkpoint.history is not None:
        np.save(folder / INTERACTIONS, checkpoint.history.pairs)
    if (events := checkpoint.events) is not None:
        arrays = {"user": events.user, "starts": events.starts, "time": events.time}
        arrays |= {f"ids/{name}": ids for name, ids in events.ids.items()}
        (folder / EVENTS).write_bytes(array_bytes(arrays))


def _write_manifest(folder: Path, format: str, checkpoints: Sequence[str | AnyPath]) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.iterdir())
    }
    made_of = [
        {"file": path.name, "sha256": file_digest(path)} for path in map(path_of, checkpoints)
    ]
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "deepfm": deepfm.__version__,
        "graphs": format,
        "checkpoints": made_of,
        "files": files,
    }
    _write_json(folder / MANIFEST, content)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _refuse_existing(output: Path, overwrite: bool) -> None:
    """Refuse a place that is taken, unless it holds an export that may be replaced.

    Raises:
        ConfigError: It is.
    """
    if not output.exists():
        return
    if not overwrite:
        raise ConfigError(f"--output: {output} exists already; --overwrite replaces an export")
    if not output.is_dir() or (any(output.iterdir()) and not (output / MANIFEST).exists()):
        raise ConfigError(
            f"--output: {output} holds no export (no {MANIFEST}), so that --overwrite leaves it; "
            "name another directory"
        )


@contextmanager
def _written_beside(output: Path) -> Iterator[Path]:
    """A directory that takes the name `output` when the block ends, and is gone if it fails.

    Raises:
        DeepFMError: The disk refuses.
    """
    folder = output.with_name(f".{output.name}.{token_hex(4)}.tmp")
    old = output.with_name(f"{folder.name}.old")
    try:
        folder.mkdir(parents=True)
        yield folder
        if output.exists():
            output.rename(old)
        folder.rename(output)
    except OSError as error:
        raise DeepFMError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        for left in (folder, old):
            shutil.rmtree(left, ignore_errors=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
