"""The command line of the attacks."""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from attacks.children import preloaded

ATTACKS = ("kills", "appends", "together", "sources", "damage", "faults", "fuzz")
OUTPUT = Path("outputs/attacks")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m attacks", description=__doc__)
    parser.add_argument("attacks", nargs="*", help=f"some of {', '.join(ATTACKS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=120, help="no case begins later")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--sample", type=int, default=200, help="calls of a kind that fail")
    parser.add_argument("--fuzz-minutes", type=float, default=20)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--short", action="store_true", help="a few seconds each, as in tests")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("Linux only: the calls that fail are preloaded")
    if unknown := set(arguments.attacks) - set(ATTACKS):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(ATTACKS)}")
    preloaded(arguments.output, sys.argv[1:])
    folder = (arguments.output / "work").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    from attacks import appends, damage, faults, fuzz, kills, sources, together
    from attacks.state import State
    from attacks.workloads import WORKLOADS

    _import_all()
    short, chosen = arguments.short, arguments.attacks or ATTACKS
    deadline = time.monotonic() + 60 * arguments.minutes
    state = State(arguments.output, deadline)
    workloads = ["declared"] if short else list(WORKLOADS)
    plans = {
        "kills": lambda: kills.cases(folder, 3 if short else arguments.kills, workloads),
        "appends": lambda: appends.cases(folder, 3 if short else 2 * arguments.kills),
        "together": lambda: together.cases(folder, 1 if short else 10),
        "sources": lambda: sources.cases(folder, workloads, short=short),
        "damage": lambda: damage.cases(folder, 2 if short else None),
        "faults": lambda: faults.cases(
            folder, 1 if short else arguments.sample, workloads, short=short
        ),
        "fuzz": lambda: fuzz.cases(folder, 60 if short else None, arguments.fuzz_minutes),
    }
    for name in chosen:
        started = time.monotonic()
        state.run(name, plans[name]())
        print(f"{name}: {time.monotonic() - started:,.0f} s", flush=True)
    report = state.report()
    (arguments.output / "report.md").write_text(report + "\n")
    print(report)
    return 1 if state.failures() else 0


def _import_all() -> None:
    """Import what children need, once, without starting a thread."""
    import sklearn.metrics  # noqa: F401
    import torch._dynamo  # which torch imports with its first optimizer

    import deepfm.cli
    import deepfm.data.files.writer
    import deepfm.data.sources.describe
    import deepfm.easyrec.pipelines
    import deepfm.experiment
    import deepfm.prediction  # noqa: F401

    torch.set_num_threads(1)
    if (threads := len(os.listdir("/proc/self/task"))) > 2:  # one is of Arrow's allocator
        print(f"warning: {threads} threads: a fork may hang")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
