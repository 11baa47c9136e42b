"""How processes would share tables out: plan."""

import argparse

from deepfm.commands.arguments import Commands, add_override, config_of
from deepfm.commands.processes import check_count
from deepfm.utils.logging import LOGGER
from deepfm.utils.progress import working


def add(commands: Commands) -> None:
    """Add this command."""
    added = commands.add(
        "plan", _plan, "show how N processes would share out the embedding tables of a config"
    )
    added.add_argument("--config", required=True, help="YAML, see configs/, or a pipeline .config")
    added.add_argument(
        "--processes", type=int, required=True, metavar="N", help="how many there are"
    )
    added.add_argument(
        "--memory", required=True, metavar="SIZE", help="of each process, such as 8GB or 8GiB"
    )
    add_override(added)


def _plan(arguments: argparse.Namespace) -> None:
    with working("loading torch"):
        from deepfm.table_plan import bytes_of, planned

    check_count(arguments.processes)
    memory = bytes_of(arguments.memory)
    with config_of(arguments.config, arguments.override) as config, working("planning"):
        lines = planned(config, processes=arguments.processes, memory=memory)
    for line in lines:
        LOGGER.info(line)
