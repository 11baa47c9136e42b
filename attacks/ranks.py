"""Kills of single processes among those that share tables out; the last ones end at the same loss.

    make install-torchrec
    python -m attacks.ranks --times 20

Each time 2 processes begin a run, 1 goes on with it, then 4 do; of each of the first two runs a
process is killed at a random moment. What the last run ends with is compared with a process that
holds all tables and that nobody disturbs: losses of all epochs, and weights. Checkpoints are
in turn one file and slices. Not among the attacks of `python -m attacks`, which need no TorchRec.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from deepfm import saving
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main as deepfm_main
from deepfm.commands.processes import environments

STAGES = (2, 1, 4)  # processes, one after the other; all but the last are disturbed
EPOCHS, ROWS, BATCH = 8, 1500, 200
TRIES = 10  # of a run that has ended before a kill
WAIT = 1800.0  # seconds for a process to end on a busy machine


def config_of(folder: Path, storage: str) -> Path:
    """A small run with a statistic for each weight, and losses that depend on all steps before."""
    folder.mkdir(parents=True)
    rng, lines = random.Random(5), ["click,user,item"]
    for _ in range(ROWS):
        user, item = rng.randrange(60), rng.randrange(80)
        click = int(rng.random() < (0.7 if user % 3 == item % 3 else 0.2))
        lines.append(f"{click},{user},{item}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    raw = {
        "device": "cpu",
        "output_dir": str(folder / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "store_dir": str(folder / "stores"),
            "split_strategy": "random",
            "table": {
                "files": "rows.csv",
                "label": "click",
                "fields": {"user": {"type": "sparse"}, "item": {"type": "sparse"}},
            },
        },
        "feature": {"embedding_dim": 6, "embedding_l2_reg": 0.0, "storage": storage},
        "dnn": {"hidden_units": [8], "norm": "none", "dropout": 0.0},
        "training": {
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "lr": 0.01,
            "precision": "fp32",
            "threads": 1,
            "optimizer": "sgd",
            "sparse_optimizer": {"name": "adagrad", "initial_accumulator_value": 0.1},
            "gradient_clip_scope": "dense",
            "checkpoint_every_steps": 2,
            "early_stopping_patience": None,
            "keep": "last",
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


class Rank:
    """A forked process of a run, with the variables by which it finds the others.

    Args:
        said: A file of what it says.
        in_slices: Whether tables are saved in slices, however small they are.
    """

    def __init__(
        self, variables: dict[str, str], arguments: list[str], said: Path, *, in_slices: bool
    ) -> None:
        self.said = said
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ.update(variables)
            torch.set_num_threads(1)
            if in_slices:
                saving.LARGEST_FILE = 0
            code = deepfm_main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def code(self) -> int:
        """How it ends, as `Popen.returncode` says it."""
        until = time.monotonic() + WAIT
        while not self.has_ended():
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def run(
    config: Path,
    count: int,
    *,
    in_slices: bool,
    disturb: Callable[[list[Rank]], None] = lambda ranks: None,
) -> list[int]:
    """Go on with a run, in so many processes; their exit codes."""
    arguments = ["train", "--config", str(config), "--resume"]
    ranks = [
        Rank(variables, arguments, config.parent / f"said{number}", in_slices=in_slices)
        for number, variables in enumerate(environments(count))
    ]
    disturb(ranks)
    return [rank.code() for rank in ranks]


def undisturbed(config: Path, count: int, *, in_slices: bool = False) -> None:
    """`run` that has to end well.

    Raises:
        RuntimeError: It has not.
    """
    codes = run(config, count, in_slices=in_slices)
    if any(codes):
        said = (config.parent / "said0").read_text()[-1500:]
        raise RuntimeError(f"{count} processes ended with {codes}: {said}")


def killing(rng: random.Random, last: Path, seconds: float) -> Callable[[list[Rank]], None]:
    """What kills one of some processes at a random moment after their first checkpoint.

    Args:
        last: Their checkpoint.
        seconds: After which the kill comes at the latest.
    """
    delay = rng.uniform(0, seconds)

    def disturb(ranks: list[Rank]) -> None:
        before = last.stat().st_mtime_ns if last.exists() else 0
        while not any(rank.has_ended() for rank in ranks):
            if last.exists() and last.stat().st_mtime_ns > before:
                break
            time.sleep(0.002)
        time.sleep(delay)
        os.kill(rng.choice(ranks).pid, signal.SIGKILL)

    return disturb


def steps_of(last: Path) -> int:
    training = load_checkpoint(last).training
    assert training is not None
    return int(training["total_steps"])


def losses_of(run_directory: Path) -> list[float]:
    lines = (run_directory / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


def weights_of(run_directory: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run_directory / "best_model.pt").build_model().state_dict()


def attempt(
    folder: Path, rng: random.Random, seconds: dict[int, float], *, in_slices: bool
) -> list[int]:
    """One run that is disturbed; the steps after each stage, none if a stage had nothing to do.

    Args:
        seconds: By the number of processes, how long they take for the whole run.

    Raises:
        RuntimeError: A stage has ended otherwise than it has to.
    """
    shutil.rmtree(folder, ignore_errors=True)
    config = config_of(folder, "torchrec")
    last, steps = folder / "run" / "last.pt", []
    for count in STAGES[:-1]:
        disturb = killing(rng, last, seconds[count] / 3)
        codes = run(config, count, in_slices=in_slices, disturb=disturb)
        if not any(codes):
            return []
        if -signal.SIGKILL not in codes or 0 in codes:
            raise RuntimeError(f"{count} processes, one of them killed, ended with {codes}")
        steps.append(steps_of(last))
    undisturbed(config, STAGES[-1], in_slices=in_slices)
    steps.append(steps_of(last))
    return steps if steps == sorted(set(steps)) else []


def largest(one: list[float], other: list[float]) -> float:
    """The largest difference of two lists that have to be as long."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m attacks.ranks", description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    import torchrec  # noqa: F401  once for all processes

    torch.set_num_threads(1)
    rng, failures = random.Random(arguments.seed), 0
    of_losses, of_weights = [], []
    with tempfile.TemporaryDirectory() as name:
        alone = config_of(Path(name) / "alone", "packed")
        undisturbed(alone, 1)
        expected, weights = losses_of(alone.parent / "run"), weights_of(alone.parent / "run")
        seconds = {}
        for count in STAGES[:-1]:
            started = time.monotonic()
            undisturbed(config_of(Path(name) / f"of{count}", "torchrec"), count)
            seconds[count] = time.monotonic() - started
        for number in range(arguments.times):
            folder = Path(name) / f"killed{number}"
            in_slices = number % 2 == 1
            try:
                tries = (attempt(folder, rng, seconds, in_slices=in_slices) for _ in range(TRIES))
                steps = next(filter(None, tries))
                of_losses.append(largest(losses_of(folder / "run"), expected))
                found = weights_of(folder / "run")
                of_weights.append(
                    max(float((found[name] - weights[name]).abs().max()) for name in weights)
                )
            except (RuntimeError, StopIteration) as error:
                failures += 1
                print(f"{number}: {error}", flush=True)
                continue
            form = "slices" if in_slices else "one file"
            print(
                f"{number}: {form}, steps after each stage {steps}, losses within "
                f"{of_losses[-1]:.1e}, weights within {of_weights[-1]:.1e}",
                flush=True,
            )
            shutil.rmtree(folder)
    if of_losses:
        print(
            f"{len(of_losses)} of {arguments.times} runs: losses of {EPOCHS} epochs within "
            f"{max(of_losses):.1e}, weights within {max(of_weights):.1e}"
        )
    return 1 if failures or max(of_losses, default=1) > 1e-6 else 0


if __name__ == "__main__":
    sys.exit(main())
