"""A `trials.json` with all that one can hold: every state, a hopeless trial, markup in names."""

import json
from pathlib import Path
from typing import Any

from tests.report.conftest import INERT

SPACE: dict[str, Any] = {
    "training.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "dnn.dropout": {"low": 0.0, "high": 0.5},
    "cin.layers": {"low": 1, "high": 4},
    "dnn.hidden_units": [[64], [128, 64], [1024, 512, 256, 128]],
    INERT: ["<b>$x^2$</b>", None, {"name": "adamw", "weight_decay": 0.1}],
}


def trial(number: int, state: str, *values: float, reason: str = "") -> dict[str, Any]:
    """A trial with a value after each epoch, and settings that its number decides."""
    settings = {
        "training.lr": 10 ** (-4 + number % 4),
        "dnn.dropout": 0.05 * (number % 11),
        "cin.layers": 1 + number % 4,
        "dnn.hidden_units": SPACE["dnn.hidden_units"][number % 3],
        INERT: SPACE[INERT][number % 3],
    }
    return {
        "number": number,
        "state": state,
        "settings": settings,
        "value": values[-1] if values else None,
        "evaluations": [[k + 1.0, value] for k, value in enumerate(values)],
        "seconds": None if state == "running" else 1.5,
        "reason": reason,
        "run": f"trials/{number:04}",
    }


TRIALS = [
    trial(0, "finished", 0.46, 0.45),
    trial(1, "finished", 0.47, 0.44),
    trial(2, "finished", 0.47, 0.46),
    trial(3, "finished", 0.45, 0.43),
    trial(4, "finished", 0.60, 5.00),  # hopeless, of a loss
    trial(5, "pruned", 0.47, reason="worse than the median after 1 epochs"),
    trial(6, "failed", float("nan"), reason=f"the loss became nan {INERT}"),
    trial(7, "failed", reason="the memory is full"),
    trial(8, "finished", 0.46, 0.455),
    trial(9, "running", 0.46),
]


def write_trials(folder: Path, **changes: Any) -> Path:
    """The folder of a search for a small `logloss`, but for some keys of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "metric": "logloss",
        "maximize": False,
        "sampler": "tpe",
        "seed": 0,
        "space": SPACE,
        "as_it_stands": 0,
        "best": 3,
        "trials": TRIALS,
    }
    (folder / "trials.json").write_text(json.dumps(content | changes))
    return folder
