"""ESMM: conversion after a click, learned from all impressions."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepfm.data.batch import Inputs
from deepfm.errors import ConfigError, DataError
from deepfm.models.options import ESMMConfig
from deepfm.models.several_tasks import SeveralTasksModel
from deepfm.objectives import Task


class ESMM(SeveralTasksModel):
    r"""p(click and conversion | x) = p(click | x) p(conversion | click, x), each with its logit.

    Two towers on shared tables give the logits a of a click and b of a conversion. The third task
    has the logit of the product of their probabilities, computed without either:

        sigma(a) sigma(b) = sigma(z),   z = -ln(e^-a + e^-b + e^(-a-b))

    Click and product are trained on all impressions; the conversion's own task is trained by the
    product alone, so its weight is 0 unless somebody wants otherwise.

    Source: X. Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating
    Post-Click Conversion Rate", SIGIR 2018, arXiv:1804.07931, Eq. (1) and (3).

    NOTE[DIFF]: The paper sums the vectors of each field's values before the towers; here the
    fields' combiners say how they are pooled, and the vectors of all fields stand end to end.
    """

    config: ESMMConfig

    def _tasks_with_towers(self) -> Sequence[Task]:
        section = self.config.esmm
        by_name = {task.name: task for task in self.tasks}
        needed = (section.click, section.conversion, section.click_and_conversion)
        if sorted(by_name) != sorted(needed):
            raise ConfigError(
                f"esmm predicts {', '.join(needed)} (their names stand in the section esmm), found "
                f"{', '.join(filter(None, by_name)) or 'one task without a name'}",
                key="tasks",
            )
        for task in self.tasks:
            if task.num_class != 1 or task.predicts_numbers:
                raise ConfigError(
                    "esmm multiplies probabilities of one logit, which binary_cross_entropy and "
                    f"binary_focal have; found {task.main.name}",
                    key=task.key("losses"),
                )
        return by_name[section.click], by_name[section.conversion]

    def check_labels(self, label: Tensor, row: NDArray[np.int64]) -> None:
        super().check_labels(label, row)
        click, conversion = (task.label_of(label, self.schema) for task in self.towered)
        both = self._task(self.config.esmm.click_and_conversion).label_of(label, self.schema)
        for what, bad in (
            ("a conversion without a click", (click == 0) & ((conversion > 0) | (both > 0))),
            ("one label says that there is a conversion, and the other not",
             (click > 0) & (conversion != both)),
        ):  # fmt: skip
            if bad.any():
                first = int(bad.nonzero()[0])
                raise DataError(f"row {int(row[first]) + 1}: {what}, which esmm has no meaning for")

    def _task(self, name: str) -> Task:
        return next(task for task in self.tasks if task.name == name)

    def _build_components(self) -> None:
        width = self._add_bottom(self.embedding.total_dim, self.config.esmm.bottom)
        self._add_outputs(self._add_towers([width, width]))

    def _task_vectors(self, flat: Tensor) -> list[Tensor]:
        shared = self._above_bottom(flat)
        return [tower(shared) for tower in self.towers]

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        logits, section = super().forward(inputs), self.config.esmm
        assert isinstance(logits, dict)  # of two tasks
        a, b = logits[section.click], logits[section.conversion]
        return logits | {section.click_and_conversion: log_odds_of_product(a, b)}


def log_odds_of_product(a: Tensor, b: Tensor) -> Tensor:
    """The logit of sigma(a) sigma(b), of logits of one shape; exact where a probability is not.

    Example:
        >>> log_odds_of_product(torch.tensor([0.0]), torch.tensor([0.0])).sigmoid()
        tensor([0.2500])
    """
    return -torch.stack([-a, -b, -a - b]).logsumexp(0)
