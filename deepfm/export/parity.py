"""How far what is exported lies from the model in fp32, at few and at many rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deepfm.data.encoding.tensors import inputs_of
from deepfm.errors import DeepFMError
from deepfm.evaluation.members import Members
from deepfm.export.graphs import Outputs, PairGraph, assembled, groups_of, halves_of, named
from deepfm.exported.layout import InputLayout
from deepfm.models.layers.precision import products_in
from deepfm.models.pairs import PairScorer
from deepfm.objectives import logits_by_name

ROWS = (1, 7, 4096)
ATOL = 1e-5  # of logits, times their size where that is above 1
CALIBRATED_ATOL = 1e-9  # of calibrated logits in float64, of the same logits before

Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


def rows_parity(
    members: Members, layout: InputLayout, outputs: Outputs, run: Run
) -> list[dict[str, Any]]:
    """The largest differences of logits at each number of rows.

    Calibrated logits are compared with those of the map itself, whose steps would make any
    rounding before it as large as they are.

    Args:
        members: The models, frozen.
        run: What is exported, from inputs to outputs.

    Raises:
        DeepFMError: A difference is too large.
    """
    found = []
    for rows in ROWS:
        arrays = layout.random(rows, np.random.default_rng(rows))
        got = dict(zip(outputs.names, run(layout.given(arrays)), strict=True))
        with torch.inference_mode(), products_in("fp32"):
            inputs = inputs_of(arrays)
            of_models = [logits_by_name(model(inputs)) for model in members.models]
        plain = Members(members.models).combined(
            [{name: logits.numpy() for name, logits in of_one.items()} for of_one in of_models]
        )
        entry: dict[str, Any] = {"rows": rows}
        for name, expected in plain.items():
            before = "uncalibrated" if name in outputs.uncalibrated else "logit"
            entry[named("logit", name)] = _difference(got[named(before, name)], expected, ATOL)
            if name in outputs.uncalibrated:
                own = {name: got[named("uncalibrated", name)]}
                calibrated = Members(members.models, {name: members.calibrations[name]})
                entry[named("calibrated", name)] = _difference(
                    got[named("logit", name)], calibrated.combined([own])[name], CALIBRATED_ATOL
                )
        found.append(entry)
    return found


def lists_parity(
    scorers: Sequence[PairScorer],
    layouts: Mapping[str, InputLayout],
    run: Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], np.ndarray],
) -> list[dict[str, Any]]:
    """The largest differences of logits of a user and 1, 7 and 4,096 items.

    Args:
        layouts: Of `user` and `item`.
        run: What is exported, from the inputs of both to logits.

    Raises:
        DeepFMError: A difference is too large.
    """
    found = []
    for rows in ROWS:
        rng = np.random.default_rng(rows)
        user, items = layouts["user"].random(1, rng), layouts["item"].random(rows, rng)
        given = layouts["user"].given(user), layouts["item"].given(items)
        with torch.inference_mode(), products_in("fp32"):
            expected = _logits_of_pairs(scorers, layouts, given)
        entry = {"items": rows, "logit": _difference(run(*given), expected, ATOL)}
        found.append(entry)
    return found


def _logits_of_pairs(
    scorers: Sequence[PairScorer],
    layouts: Mapping[str, InputLayout],
    given: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
) -> np.ndarray:
    """Logits of a user and items, by the scorers of the models."""
    schema = scorers[0].model.schema
    halves: list[torch.Tensor] = []
    for side, arrays in zip(("user", "item"), given, strict=True):
        rows = assembled(schema, groups_of(side), arrays)
        halves += halves_of(scorers, rows, side)
    logits: np.ndarray = PairGraph(scorers)(halves).numpy()
    return logits


def _difference(found: np.ndarray, expected: np.ndarray, tolerance: float) -> float:
    """The largest difference, each divided by the size of the logit where that is above 1.

    Raises:
        DeepFMError: It is above the tolerance, or there are not as many.
    """
    if found.shape != expected.shape:
        raise DeepFMError(f"the export gives logits {found.shape}, the model {expected.shape}")
    size = np.maximum(np.abs(expected), 1.0)
    largest = float((np.abs(found - expected) / size).max(initial=0.0))
    if not largest <= tolerance:
        raise DeepFMError(
            f"the export is not the model: a logit differs by {largest:.2g}, at most "
            f"{tolerance:g} times its size is allowed; nothing is written"
        )
    return largest
