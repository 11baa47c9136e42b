"""A trained model at work: predict, recommend."""

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from deepfm.commands.arguments import Commands, add_checkpoints
from deepfm.errors import ConfigError, DataError, nearest, shown
from deepfm.utils.logging import LOGGER
from deepfm.utils.progress import ProgressBar

if TYPE_CHECKING:
    import pyarrow as pa


def add(commands: Commands) -> None:
    """Add these commands."""
    added = commands.add("predict", _predict, "predictions for the raw rows of a file")
    add_checkpoints(added)
    added.add_argument(
        "--input", required=True, help="rows, .csv, .tsv (plain, .gz or .zst) or .parquet; or a URI"
    )
    added.add_argument(
        "--output",
        required=True,
        help="rows with predictions, .csv, .tsv (plain, .gz or .zst) or .parquet; or a URI",
    )
    added.add_argument("--overwrite", action="store_true", help="replace that file")
    added.add_argument(
        "--columns", metavar="a,b,c", help="columns of the input to write (default: all)"
    )

    added = commands.add("recommend", _recommend, "a ranked list of items for a user")
    add_checkpoints(added)
    added.add_argument("--user", required=True, help="the user's id")
    added.add_argument("--top", type=int, default=10, help="length of the list (default: 10)")
    added.add_argument(
        "--history",
        metavar="a,b,c",
        help="items, the oldest first, in the place of what the user did, for a model that reads "
        "it",
    )
    added.add_argument(
        "--time", help="what now is for such a model (default: the newest event that it knows)"
    )
    added.add_argument(
        "--context",
        action="extend",
        nargs="+",
        default=[],
        metavar="a=b",
        help="values of context columns, and of the user's in the place of the stored ones",
    )
    added.add_argument("--candidates", metavar="a,b,c", help="rank these items alone")
    added.add_argument("--exclude", metavar="a,b,c", help="leave these items out")


def _predict(arguments: argparse.Namespace) -> None:
    from deepfm.data.files.writer import TableWriter, writable_format
    from deepfm.prediction import Predictor
    from deepfm.several import expanded
    from deepfm.utils.places import is_same_file, path_of
    from deepfm.utils.startup import leave_pandas_out

    leave_pandas_out()
    source, output = arguments.input, arguments.output
    target = path_of(output)
    writable_format(target)
    checkpoints = expanded(arguments.checkpoint)
    read = (("--input", source), *(("--checkpoint", path) for path in checkpoints))
    for name, given in read:
        if is_same_file(path_of(given), target):
            raise ConfigError(f"--output {output} is the file of {name}; name another")
    if not arguments.overwrite and target.exists():
        raise ConfigError(f"{output} exists already; --overwrite replaces it")
    predictor = Predictor(checkpoints)
    count = 0
    unknown: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    with TableWriter(target) as writer, ProgressBar("predict", total=100) as bar:
        for rows, predictions, unknown_here, bad_here in predictor.predict_file(source):
            writer.write(_with_predictions(source, rows.table, arguments.columns, predictions))
            count += rows.table.num_rows
            unknown.update(unknown_here)
            bad.update(bad_here)
            if bar.due():
                bar.show(int(100 * rows.done), f"{count:,} rows")
    counts = _counts("unknown values", unknown) + _counts("values that cannot be read", bad)
    LOGGER.info(f"{count:,} rows scored into {output}{counts}")


def _with_predictions(
    source: str, table: "pa.Table", columns: str | None, predictions: "dict[str, pa.Array]"
) -> "pa.Table":
    chosen = columns.split(",") if columns is not None else table.column_names
    for name in chosen:
        if name not in table.column_names:
            hint = nearest(name, table.column_names)
            raise DataError(f"--columns: {source} has no column {name!r}; {hint}")
    table = table.select(chosen)
    for name, values in predictions.items():
        if name in chosen:
            raise DataError(
                f"{source}: has a column {name!r} already; rename it or leave it out of --columns"
            )
        table = table.append_column(name, values)
    return table


def _counts(title: str, counts: Counter[str]) -> str:
    """The largest counts as the end of a line, empty if all are zero."""
    found = [(name, count) for name, count in counts.most_common() if count]
    shown = [f"{name} {count:,}" for name, count in found[:5]]
    if len(found) > len(shown):
        shown.append(f"{len(found) - len(shown)} more")
    return f"; {title}: {', '.join(shown)}" if found else ""


def _recommend(arguments: argparse.Namespace) -> None:
    from deepfm.prediction import Predictor, ScoredItem
    from deepfm.several import expanded
    from deepfm.utils.startup import leave_pandas_out

    leave_pandas_out()
    if arguments.top < 1:
        raise ConfigError(f"--top: expected at least 1, found {arguments.top}")
    context = _context(arguments.context)
    predictor = Predictor(expanded(arguments.checkpoint))
    if not predictor.knows_user(arguments.user):
        LOGGER.warning(f"user {arguments.user} is unknown and served as a new user")
    history, candidates, exclude = (
        None if given is None else given.split(",")
        for given in (arguments.history, arguments.candidates, arguments.exclude)
    )
    found = predictor.recommend(
        arguments.user,
        top=arguments.top,
        history=history,
        time=arguments.time,
        context=context,
        candidates=candidates,
        exclude=exclude or (),
    )
    if found and isinstance(found[0], ScoredItem):
        LOGGER.info("rank   score      item")  # in the place of probabilities
    for rank, (item, title, value) in enumerate(found, start=1):
        LOGGER.info(f"{rank:>4}  {value:.4f}  {item:>8}  {title or ''}".rstrip())


def _context(given: list[str]) -> dict[str, object]:
    """Values by column, of `a=b`; an empty value is none."""
    found: dict[str, object] = {}
    for pair in given:
        name, sign, value = pair.partition("=")
        if not sign:
            raise ConfigError(f"--context: expected column=value, found {shown(pair)}")
        found[name] = value or None
    return found
