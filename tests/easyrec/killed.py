"""Trainings that end with SIGKILL in the middle of an epoch, each in a process of its own.

A script: it imports the program once and forks for each training. Arguments: a JSON list of
[arguments of the command line, steps before the end]; it prints how each process ended.
"""

import json
import os
import signal
import sys

import torch
import torch._dynamo  # which a first model imports; here once for all

from deepfm.cli import main
from deepfm.training.steps import TrainingStep


def train_and_die(arguments: list[str], steps: int) -> None:
    """Train in this process, which kills itself after so many steps."""
    update, done = TrainingStep.update, 0

    def counted(self):
        nonlocal done
        update(self)
        done += 1
        if done == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainingStep.update = counted
    os._exit(main(arguments))


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process that has threads could not be forked
    ends = []
    for arguments, steps in json.loads(sys.argv[1]):
        child = os.fork()
        if not child:
            train_and_die(arguments, steps)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stdout.write(json.dumps(ends))
