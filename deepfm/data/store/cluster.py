"""A store made by jobs that share a directory only: `prepare --shard i/n`, then `--merge`.

Rows are shared out as among processes, with files in the place of what these send each other. A
shard does the next step that it has not done, and needs the one before of all shards:

    scan     where its range of the files may be cut, and how many rows there are
    rows     the rows of what no scan can count (blank lines, unusual encodings)
    survey   what the split has to know of all rows
    learn    what the fields learn of its training rows
    encode   its arrays

Steps that a table does not need are left out, so a shard is called as often as there are steps,
three times for most tables. What a step has made is a folder beside the store:

    <store_dir>/.<folder of the files>-<key>.of<n>/<step><i>/
        result.json               written last: plain data, and a checksum of each other file

The key is that of the store, so that another content of the files, other settings or another
number of shards mean other folders. A folder takes its name when it is whole.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.learning import Learning, refuse_untrained
from deepfm.data.sources import tabular
from deepfm.data.store import share_work
from deepfm.data.store.arrays import Piece
from deepfm.data.store.build import first_time, put_together, threads_of
from deepfm.data.store.encoders_file import ENCODERS, read_encoders, write_encoders
from deepfm.data.store.passes import PassOverRows
from deepfm.data.store.shard import Shard
from deepfm.data.store.share_work import EncodedShare, LearntShare, ShareTask
from deepfm.data.store.shares import cut, parts_by_share, ranges_by_share, shares_of, uncounted
from deepfm.data.store.sums import digest_of_file
from deepfm.data.store.table_rows import RowsOfATable
from deepfm.data.store.versions import hash_plain
from deepfm.errors import ConfigError, DataError, Place
from deepfm.utils.io import atomic_write_bytes
from deepfm.utils.locks import exclusive_lock
from deepfm.utils.logging import LOGGER

_RESULT = "result.json"
_FOUND = "found.npz"
_LAST = "encode"
Make = Callable[[int, Path], Any]  # what a shard's step puts into a folder; the rest, plain data


class ShardFolder:
    """What the shards of a table have done so far.

    Args:
        folder: Of the shards.
        table: Its rows.
        of: How many shards there are.
    """

    def __init__(self, folder: Path, table: RowsOfATable, of: int) -> None:
        if not table.split.in_shares:
            raise ConfigError(
                f"{table.split.name} goes through all rows in their order; prepare it without "
                "--shard",
                key="data.split_strategy",
            )
        self._folder, self._table, self._of = folder, table, of
        self._checked: dict[str, list[Any]] = {}  # results by step, whose files are read once

    def next_step(self, number: int) -> bool:
        """Do the next step of a shard; False: it has done all.

        Raises:
            DataError: The step before is not done by all shards, or something is damaged.
        """
        for step, make in self._steps():
            if not self._path(step, number).exists():
                self._write(step, number, make)
                following = "prepare --merge" if step == _LAST else "all shards again"
                LOGGER.info(
                    f"shard {Shard(number, self._of)} has done the step {step}; when all have, "
                    f"run {following}"
                )
                return True
        return False

    def merge(self, scratch: Path) -> dict[str, Any]:
        """Put together what the shards have encoded; the content of the manifest.

        Raises:
            DataError: A shard has not done all its steps, or something is damaged.
        """
        for step, _ in self._steps():
            self._results(step)
        encoded = {}
        for number, (read, dropped, bad, arrays) in enumerate(self._results(_LAST)):
            # copies, which are emptied: what shards have made stays until the store is there
            own = scratch / f"share{number}"
            shutil.copytree(self._path(_LAST, number) / "arrays", own)
            encoded[own] = EncodedShare(read, dropped, bad, Piece(*arrays))
        shares = [task.share for task in self._tasks]
        for share, following, one in zip(shares, shares[1:], encoded.values(), strict=False):
            share_work.refuse_miscounted(share, following, one.read)
        made = put_together(scratch, self._table, self._encoders(), encoded)
        for own in encoded:
            shutil.rmtree(own)
        return made

    def _steps(self) -> Iterator[tuple[str, Make]]:
        """The steps in their order, each of which needs those before of all shards."""
        table, options = self._table, tabular.text_options(self._table.table)
        files = cut(table.row_files, self._of, options)
        ranges = ranges_by_share(files, self._of)
        yield "scan", lambda n, to: share_work.scan_ranges(table, ranges[n], _unheard)
        parts = parts_by_share(files, self._results("scan"), options)
        unknown = uncounted(parts)
        counts: list[list[int]] = [[] for _ in parts]
        if any(unknown):
            yield "rows", lambda n, to: share_work.count_rows(table, unknown[n], _unheard)
            counts = self._results("rows")
        are_dates, threads = first_time(table), threads_of(1)
        self._tasks = [
            ShareTask(share, n, self._of, are_dates, None, threads)
            for n, share in enumerate(shares_of(parts, counts))
        ]
        if table.is_surveyed:
            yield "survey", self._survey
            self._results("survey")
            found = [_arrays(self._path("survey", n) / _FOUND) for n in range(self._of)]
            self._tasks = [task._replace(found=found) for task in self._tasks]
        if Encoders.has_to_learn(table.schema):
            yield "learn", self._learn
        yield _LAST, self._encode

    def _survey(self, number: int, to: Path) -> None:
        found = share_work.survey(self._table, self._tasks[number], _unheard)
        np.savez(to / _FOUND, allow_pickle=False, **found)

    def _learn(self, number: int, to: Path) -> LearntShare:
        task = self._tasks[number]
        with PassOverRows("reading the training rows", task.share.size).shown() as passed:
            found = share_work.learn_into(self._table, (task, to / "states"), passed.report)
        passed.end(found.read)
        return found

    def _encode(self, number: int, to: Path) -> EncodedShare:
        task = self._tasks[number]
        with PassOverRows("encoding", task.share.size).shown() as passed:
            work = (task, self._encoders(), to / "arrays")
            found = share_work.encode(self._table, work, passed.report)
        passed.end(found.read)
        return found

    def _encoders(self) -> Encoders:
        """Those that all shards are encoded with, fitted by the first one that needs them."""
        schema = self._table.schema
        if not Encoders.has_to_learn(schema):
            return Encoders.fit(schema, ())
        path = self._folder / ENCODERS
        with exclusive_lock(self._folder / ".encoders.lock"):
            if not path.exists():
                refuse_untrained(sum(trained for _, trained in self._results("learn")))
                folders = [self._path("learn", n) / "states" for n in range(self._of)]
                names = Learning(schema).tables()
                by_table = {
                    name: share_work.fit_table(self._table, (name, folders), _unheard)
                    for name in names
                }
                write_encoders(path, Encoders(schema, by_table))
        return read_encoders(path, None, schema)

    def _path(self, step: str, number: int) -> Path:
        return self._folder / f"{step}{number}"

    def _write(self, step: str, number: int, make: Make) -> None:
        """Do a step of a shard: a folder that takes its name when it is whole."""
        path = self._path(step, number)
        self._folder.mkdir(parents=True, exist_ok=True)
        made = self._folder / f".{path.name}.{secrets.token_hex(4)}.tmp"
        made.mkdir()
        try:
            content = make(number, made)
            self._table.read.refuse_changed()
            files = {str(file.relative_to(made)): digest_of_file(file) for file in _files(made)}
            plain: dict[str, Any] = {"content": content, "files": files}
            plain = json.loads(json.dumps(plain))
            plain["checksum"] = hash_plain(plain)
            atomic_write_bytes(made / _RESULT, json.dumps(plain).encode())
            os.replace(made, path)
        except OSError:
            if not path.exists():  # else another job has done the same step meanwhile
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _results(self, step: str) -> list[Any]:
        """What a step has made of each shard, checked.

        Raises:
            DataError: A shard has not done it, or a file is not what was written.
        """
        if step not in self._checked:
            self._checked[step] = [self._result(step, number) for number in range(self._of)]
        return self._checked[step]

    def _result(self, step: str, number: int) -> Any:
        path, shard = self._path(step, number), Shard(number, self._of)
        again = f"run `deepfm prepare --shard {shard}`"
        if not path.exists():
            raise DataError(
                f"step {step} is not done by shard {shard}: {again}", place=Place(file=str(path))
            )
        try:
            plain = json.loads((path / _RESULT).read_bytes())
            checksum = plain.pop("checksum")
            files = {str(file.relative_to(path)): digest_of_file(file) for file in _files(path)}
            if checksum == hash_plain(plain) and files == plain["files"]:
                return plain["content"]
            problem = "another checksum"
        except (OSError, ValueError, LookupError, AttributeError) as error:
            problem = str(error)
        raise DataError(f"damaged ({problem}); remove it and {again}", place=Place(file=str(path)))


def _unheard(done: float, rows: int) -> None:
    """What is not reported."""


def _files(folder: Path) -> list[Path]:
    """All files in a folder and below, but the result."""
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.name != _RESULT)


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)
