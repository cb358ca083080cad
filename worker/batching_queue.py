"""Which of the tasks that wait run together: batches, formed as tasks come and taken as threads get free.

A batch is open for tasks of its kind until it is full, or one does not fit, or it is taken. What must stay true: tasks
of one kind leave in the order in which they came, unless the newest are asked for; no batch has more rows than fit in a
call; there are never more batches than the backlog allows, and none is empty, because who leaves takes his rows along.
Pure: the clock is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

_TIMER_IS_EARLY_BY = 0.002
"""Seconds. An event loop rounds its timers, and a batch that is not due when its timer fires would wait for ever."""


class Task(Protocol):
    """Somebody who waits: with so many rows, which can run with those of the same kind, since then."""

    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def kind(self) -> Hashable: ...  # noqa: D102
    @property
    def since(self) -> float: ...  # noqa: D102


T = TypeVar("T", bound=Task)


@dataclass(slots=True, eq=False)
class _Batch(Generic[T]):
    kind: Hashable
    since: float
    rows: int = 0
    closed: bool = False
    tasks: dict[T, None] = field(default_factory=dict)


class Queue(Generic[T]):
    """Batches of at most `size` rows. An open one waits for company for up to `wait` seconds.

    At most `backlog` of them wait; None is without a bound. A task is as large as its rows, and takes the room of one
    at least.
    """

    def __init__(self, size: int, backlog: int | None = None, wait: float = 0.0) -> None:
        self._size = size
        self._backlog = backlog
        self._wait = wait
        self._batches: deque[_Batch[T]] = deque()
        self._open: dict[Hashable, _Batch[T]] = {}
        self._places: dict[T, _Batch[T]] = {}

    def __repr__(self) -> str:
        return f"<Queue: {len(self)} tasks in {self.batches} batches>"

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, task: T) -> bool:
        return task in self._places

    @property
    def batches(self) -> int:
        """How many batches wait."""
        return len(self._batches)

    @property
    def full(self) -> bool:
        """Is there no room for even one row, of whatever kind?"""
        return self._backlog is not None and len(self._batches) >= self._backlog and not self._open

    def fits(self, sizes: list[int], kind: Hashable) -> bool:
        """Is there room for tasks of this kind and so many rows, one after the other? None is larger than `size`."""
        if self._backlog is None:
            return True
        batch = self._open.get(kind)
        rows, batches = (batch.rows if batch else self._size), len(self._batches)
        for size in sizes:
            rows += max(size, 1)
            if rows > self._size:
                rows, batches = max(size, 1), batches + 1
        return batches <= self._backlog

    def put(self, task: T) -> bool:
        """Let `task`, which fits, wait. Has a new batch been opened for it?"""
        rows = max(task.rows, 1)
        batch = self._open.get(task.kind)
        if batch is not None and batch.rows + rows > self._size:
            self._close(batch)
            batch = None
        new = batch is None
        if batch is None:
            batch = self._open[task.kind] = _Batch(task.kind, task.since)
            self._batches.append(batch)
        batch.tasks[task] = None
        batch.rows += rows
        self._places[task] = batch
        if batch.rows >= self._size:
            self._close(batch)
        return new

    def leave(self, task: T) -> bool:
        """`task` does not wait any more. Did it?"""
        batch = self._places.pop(task, None)
        if batch is None:
            return False
        del batch.tasks[task]
        batch.rows -= max(task.rows, 1)
        if not batch.tasks:
            self._close(batch)
            self._batches.remove(batch)
        return True

    def due(self, now: float) -> bool:
        """Is there a batch that need not wait for company any longer?"""
        return self._due(now) is not None

    def take(self, now: float, most: int, *, newest: bool = False) -> list[T]:
        """The tasks of the batch that is due and came first, or last, the first `most` of them; none if none is due."""
        batch = self._due(now, newest=newest)
        if batch is None:
            return []
        if len(batch.tasks) > most:
            taken = [task for task, _ in zip(batch.tasks, range(most), strict=False)]
            for task in taken:
                self.leave(task)
            return taken
        self._close(batch)
        self._batches.remove(batch)
        for task in batch.tasks:
            del self._places[task]
        return list(batch.tasks)

    def clear(self) -> list[T]:
        """Everybody who waited, who does not any more."""
        gone = list(self._places)
        for task in gone:
            self.leave(task)
        return gone

    def _due(self, now: float, *, newest: bool = False) -> _Batch[T] | None:
        for batch in reversed(self._batches) if newest else self._batches:
            if batch.closed or now - batch.since >= self._wait - _TIMER_IS_EARLY_BY:
                return batch
        return None

    def _close(self, batch: _Batch[T]) -> None:
        batch.closed = True
        if self._open.get(batch.kind) is batch:
            del self._open[batch.kind]
