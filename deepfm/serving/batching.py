"""Requests that wait are scored together: a bounded queue, and one thread beside the event loop.

Decided here: while a batch is scored, what arrives waits, and is the next batch; so batches are as
large as the load makes them. Where the last one had several requests the next waits a millisecond
for as many again. Requests of one batch must bring the same columns, since a column that some rows
lack is looked up for them and is not for others. If a batch fails, its requests are scored one by
one, so that none fails for another's mistake.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby
from typing import Any, NamedTuple

import numpy as np

from deepfm.data.served_rows import FEW
from deepfm.engine import CountedPredictions, Recommendation, ScoredItem
from deepfm.errors import DataError
from deepfm.serving.metrics import Metrics
from deepfm.serving.models import ServedModel
from deepfm.serving.requests import ListRequest, Refused, Rows, list_refusal, refusal

MOST_ROWS = FEW  # of a batch; more are read by the path for many rows, which begins slowly
GATHERING = 0.001  # seconds


class Answer(NamedTuple):
    """What became of a request.

    Attributes:
        value: Predictions by column, or a list.
        version: Of the model that gave it.
    """

    value: dict[str, np.ndarray] | Sequence[Recommendation | ScoredItem]
    version: str


class Full(Exception):
    """No more requests can wait."""


class Waiting:
    """A request in the queue.

    Attributes:
        asked: What for.
        future: Gets an `Answer`, or raises `Refused`, or what went wrong.
    """

    __slots__ = ("asked", "future")

    def __init__(self, asked: Rows | ListRequest, future: "asyncio.Future[Answer]") -> None:
        self.asked, self.future = asked, future


Outcome = tuple[Waiting, Answer | BaseException]


class Batcher:
    """Scores what is submitted, by the model of the moment.

    Args:
        model: Answers; `swap` replaces it between two batches.
        metrics: Counts.
        most: Requests that may wait.
    """

    def __init__(self, model: ServedModel, metrics: Metrics, most: int) -> None:
        self.model, self._metrics, self._most = model, metrics, most
        self._queue: deque[Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._is_busy = False
        self._last_size = 1

    def swap(self, model: ServedModel) -> None:
        """Let another model answer from the next batch on."""
        self.model = model

    def submit(self, asked: Rows | ListRequest) -> "asyncio.Future[Answer]":
        """Queue a request; called in the event loop, as all methods are.

        Raises:
            Full: The queue is.
        """
        if len(self._queue) >= self._most:
            raise Full
        loop = asyncio.get_running_loop()
        waiting = Waiting(asked, loop.create_future())
        self._queue.append(waiting)
        if not self._is_busy:
            self._is_busy = True
            if self._last_size > 1:
                loop.call_later(GATHERING, self._begin, loop)
            else:  # all that has arrived by now is read first
                loop.call_soon(self._begin, loop)
        return waiting.future

    def close(self) -> None:
        """End the thread when it has done what it does."""
        self._thread.shutdown(wait=False)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._next()
        if not batch:
            self._is_busy = False
            return
        self._last_size = len(batch)
        self._thread.submit(self._run, batch, self.model, loop)

    def _next(self) -> list[Waiting]:
        """The oldest requests, as many as fit into a batch; those nobody waits for are dropped."""
        batch: list[Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            count = first.asked.size if isinstance(first.asked, Rows) else 1
            if batch and rows + count > MOST_ROWS:
                break
            self._queue.popleft()
            if not first.future.done():
                batch.append(first)
                rows += count
        return batch

    def _run(
        self, batch: list[Waiting], model: ServedModel, loop: asyncio.AbstractEventLoop
    ) -> None:
        """In the thread: score, and hand all outcomes back at once."""
        try:
            outcomes = self._outcomes(batch, model)
        except BaseException as error:
            outcomes = [(waiting, error) for waiting in batch]
        loop.call_soon_threadsafe(self._finish, outcomes, loop)

    def _finish(self, outcomes: list[Outcome], loop: asyncio.AbstractEventLoop) -> None:
        for waiting, outcome in outcomes:
            if waiting.future.done():  # past its deadline, or its client has left
                continue
            if isinstance(outcome, BaseException):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(outcome)
        if self._queue and self._last_size > 1:
            loop.call_later(GATHERING, self._begin, loop)
        else:
            self._begin(loop)

    def _outcomes(self, batch: list[Waiting], model: ServedModel) -> list[Outcome]:
        found: list[Outcome] = []
        rows = [waiting for waiting in batch if isinstance(waiting.asked, Rows)]
        rows.sort(key=_names)
        for _, group in groupby(rows, _names):
            found += self._scored(list(group), model)
        for waiting in batch:
            if isinstance(waiting.asked, ListRequest):
                found.append((waiting, self._listed(waiting.asked, model)))
        return found

    def _scored(self, group: list[Waiting], model: ServedModel) -> list[Outcome]:
        """The outcomes of requests that bring the same columns."""
        asked: list[Any] = [waiting.asked for waiting in group]
        try:
            found = self._predicted(_together(asked), model)
        except Exception as error:
            if len(group) > 1:
                return [outcome for one in group for outcome in self._scored([one], model)]
            return [(group[0], _refused(error, lambda e: refusal(model.engine, asked[0], e)))]
        outcomes: list[Outcome] = []
        start = 0
        for waiting, rows in zip(group, asked, strict=True):
            end = start + rows.size
            own = {name: values[start:end] for name, values in found.columns.items()}
            outcomes.append((waiting, Answer(own, model.version)))
            start = end
        return outcomes

    def _predicted(self, rows: Rows, model: ServedModel) -> CountedPredictions:
        found = model.engine.predict_counted(rows.columns)
        self._metrics.batch(rows.size, found.columns)
        self._metrics.fields(rows.size, found.unknown, found.missing)
        return found

    def _listed(self, asked: ListRequest, model: ServedModel) -> Answer | BaseException:
        try:
            found = model.engine.recommend(asked.user, **asked.arguments)
        except Exception as error:
            return _refused(error, lambda e: list_refusal(model.engine, e))
        return Answer(found, model.version)


def _names(waiting: Waiting) -> list[str]:
    assert isinstance(waiting.asked, Rows)
    return waiting.asked.names


def _together(asked: Sequence[Rows]) -> Rows:
    """The rows of requests with the same columns, one behind the other."""
    first = asked[0]
    if len(asked) == 1:
        return first
    columns = {
        name: list(chain.from_iterable([rows.columns[name] for rows in asked]))
        for name in first.columns
    }
    return Rows(columns, sum(rows.size for rows in asked), first.names)


def _refused(error: Exception, refusal_of: Callable[[DataError], Refused]) -> BaseException:
    """What a request is answered whose outcome is an error: a mistake in it, or one of ours."""
    if not isinstance(error, DataError):
        return error
    try:
        return refusal_of(error)
    except Exception as other:
        return other
