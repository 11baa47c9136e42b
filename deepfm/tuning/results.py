"""What a search found: the best config as YAML, and all trials as a table and as data."""

import json
from dataclasses import replace

import yaml

from deepfm.config import ExperimentConfig
from deepfm.errors import DeepFMError
from deepfm.tuning.space import with_settings
from deepfm.tuning.study import Study, Trial
from deepfm.utils.io import atomic_write_bytes
from deepfm.utils.settings import settings_text, value_text

_ORDER = ("finished", "pruned", "failed", "running")
_SHOWN = 10  # trials in the lines; the files have all


def write_results(study: Study, config: ExperimentConfig) -> list[str]:
    """Write `trials.json`, `trials.md` and `best.yaml`, and return the lines of a short table.

    Args:
        study: Its trials need not have ended.
        config: What the trials changed.

    Raises:
        DeepFMError: No trial has finished, or the disk refuses.
    """
    trials, best, folder = study.trials(), study.best(), study.folder
    atomic_write_bytes(folder / "trials.json", (_json(study, trials, best) + "\n").encode())
    table = _table(study, trials)
    title = f"# Trials of {folder.name}, by {study.plan.metric} of the validation rows"
    atomic_write_bytes(folder / "trials.md", "\n".join([title, "", *table, ""]).encode())
    if best is None:
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in trials if trial.reason))
        raise DeepFMError(f"no trial has finished{f': {reasons}' if reasons else ''}")
    _write_best(study, best, config)
    counts = ", ".join(
        f"{len(found)} {state}"
        for state in _ORDER
        if (found := [trial for trial in trials if trial.state == state])
    )
    more = [f"{len(trials) - _SHOWN} more in {folder / 'trials.md'}"] * (len(trials) > _SHOWN)
    return [
        *table[: 2 + _SHOWN],
        *more,
        f"{counts}; best: trial {best.number}, valid {study.plan.metric} {best.value:.4f}",
        f"{folder / 'best.yaml'} is its config: {settings_text(best.settings)}",
    ]


def _write_best(study: Study, best: Trial, config: ExperimentConfig) -> None:
    """The best trial's config, which `deepfm train` takes, with the test rows of the original."""
    name = study.folder.name
    found = with_settings(config, best.settings)
    found = replace(found, output_dir=f"outputs/{name}_best")
    head = (
        f"# Trial {best.number} of {len(study.trials())}: {study.plan.metric} {best.value:.6g} on "
        f"the validation rows.\n# {settings_text(best.settings)}\n"
    )
    text = yaml.safe_dump(found.to_dict(), sort_keys=False, allow_unicode=True)
    atomic_write_bytes(study.folder / "best.yaml", (head + text).encode())


def _json(study: Study, trials: list[Trial], best: Trial | None) -> str:
    plan = study.plan.to_dict()
    content = {
        **{key: plan[key] for key in ("metric", "maximize", "sampler", "seed", "space")},
        "as_it_stands": 0 if len(study.plan.first) == len(study.plan.space) else None,
        "best": None if best is None else best.number,
        "trials": [vars(trial) | {"run": str(trial.run)} for trial in trials],
    }
    return json.dumps(content, indent=2)


def _table(study: Study, trials: list[Trial]) -> list[str]:
    """A Markdown table, the best trial first; those that were pruned or failed at its end."""
    sign = -1 if study.plan.maximize else 1
    ordered = sorted(
        trials, key=lambda trial: (_ORDER.index(trial.state), sign * (trial.value or 0.0))
    )
    keys = list(study.plan.space)
    rows = [["trial", "", study.plan.metric, "epochs", "seconds", *keys]]
    for trial in ordered:
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        seconds = "-" if trial.seconds is None else f"{trial.seconds:.1f}"
        state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        settings = [value_text(trial.settings[key]) for key in keys]
        rows.append([str(trial.number), state, value, f"{trial.epochs:g}", seconds, *settings])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |" for row in rows
    ]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]
