"""Many callers in, one call out; it knows neither HTTP nor TensorFlow.

A `Batcher` collects items for one function that works on lists. `Runners` are the threads in which such functions run,
shared by all batchers of a process. Nothing waits while a runner is free: a batch is what queued up while all were
busy, unless a wait is asked for. What must stay true:

- every submitted item gets exactly one outcome, its own: if a call fails, each item of it is called alone;
- an item whose caller has gone costs no call, and a full queue refuses at once;
- state changes only in the event loop, in plain functions without an `await`, so each change is whole before anybody
  can look. There is no background task that could die.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from muster.errors import Draining, Overloaded

In = TypeVar("In")
Out = TypeVar("Out")

_TIMER_IS_EARLY_BY = 0.002
"""Seconds. An event loop rounds its timers, and a batch that is not due when its timer fires would wait for ever."""


@dataclass(frozen=True, slots=True)
class Ran(Generic[Out]):
    """What became of an item: its result, the seconds it waited and ran, and how many items shared the call."""

    result: Out
    waited: float
    took: float
    batch: int


@dataclass(slots=True, eq=False)
class _Ticket(Generic[In, Out]):
    item: In
    answer: asyncio.Future[Ran[Out]]
    since: float


class _Line(Protocol):
    """Somebody with work for a runner."""

    def next_call(self) -> Callable[[], Callable[[], None]] | None:
        """Take up to a batch off the queue: what to do in a thread, which returns what to do afterwards in the loop."""

    @property
    def due(self) -> bool:
        """Is there work that need not wait for company any longer?"""


class Runners:
    """A fixed number of threads; batchers with waiting work take turns."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="runner")
        self._free = count
        self._lines: deque[_Line] = deque()

    def __repr__(self) -> str:
        return f"<Runners: {self._free} free, {len(self._lines)} lines waiting>"

    def offer(self, line: _Line) -> None:
        """Let `line` have a runner, now or as soon as one is free."""
        if line not in self._lines:
            self._lines.append(line)
        self._go_on()

    def close(self) -> None:
        """End the threads. A call that runs is not waited for, its outcome is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _go_on(self) -> None:
        while self._free and self._lines:
            line = self._lines.popleft()
            call = line.next_call() if line.due else None
            if call is None:
                continue
            if line.due:
                self._lines.append(line)
            self._free -= 1
            asyncio.get_running_loop().run_in_executor(self._pool, call).add_done_callback(self._done)

    def _done(self, future: asyncio.Future[Callable[[], None]]) -> None:
        self._free += 1
        if not future.cancelled():
            future.result()()
        self._go_on()


class Batcher(Generic[In, Out]):
    """A queue in front of `call`, which takes 1 to `size` items, returns as many results and runs in a thread.

    `limit` items may wait; `wait` seconds at most may the first of them wait for company although a runner is free.
    """

    def __init__(
        self,
        call: Callable[[Sequence[In]], Sequence[Out]],
        runners: Runners,
        *,
        size: int,
        limit: int,
        wait: float = 0.0,
    ) -> None:
        self._call = call
        self._runners = runners
        self._size = size
        self._limit = limit
        self._wait = wait
        self._waiting: deque[_Ticket[In, Out]] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Batcher: {len(self._waiting)} waiting>"

    @property
    def waiting(self) -> int:
        """Items in the queue whose callers are still there."""
        self._forget_the_gone()
        return len(self._waiting)

    async def submit(self, item: In) -> Ran[Out]:
        """The outcome of `item`. Raises what `call` raised for it, Overloaded, or Draining after `close`."""
        if self._closed:
            raise Draining("this worker is stopping")
        if len(self._waiting) >= self._limit:
            self._forget_the_gone()
        if len(self._waiting) >= self._limit:
            raise Overloaded(f"{len(self._waiting)} images are already waiting here", queue=len(self._waiting))
        loop = asyncio.get_running_loop()
        ticket = _Ticket[In, Out](item, loop.create_future(), loop.time())
        self._waiting.append(ticket)
        if self._wait and len(self._waiting) < self._size:
            loop.call_at(ticket.since + self._wait, self._runners.offer, self)
        else:
            self._runners.offer(self)
        return await ticket.answer

    def close(self) -> None:
        """Refuse what comes and what waits. Calls that run go on."""
        self._closed = True
        while self._waiting:
            ticket = self._waiting.popleft()
            if not ticket.answer.done():
                ticket.answer.set_exception(Draining("this worker is stopping"))

    @property
    def due(self) -> bool:
        """Is there work that need not wait for company any longer?"""
        self._forget_the_gone()
        if not self._waiting:
            return False
        waited = asyncio.get_running_loop().time() - self._waiting[0].since
        return len(self._waiting) >= self._size or waited >= self._wait - _TIMER_IS_EARLY_BY

    def next_call(self) -> Callable[[], Callable[[], None]] | None:
        """Take up to a batch off the queue: what to do in a thread, which returns what to do afterwards in the loop."""
        self._forget_the_gone()
        batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        if not batch:
            return None
        started = asyncio.get_running_loop().time()

        def work() -> Callable[[], None]:
            begun = time.monotonic()
            outcomes = _outcomes(self._call, [ticket.item for ticket in batch])
            took = time.monotonic() - begun
            return lambda: _settle(batch, outcomes, started, took)

        return work

    def _forget_the_gone(self) -> None:
        """Drop the tickets whose callers have gone."""
        if any(ticket.answer.done() for ticket in self._waiting):
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.answer.done())


def _outcomes(call: Callable[[Sequence[Any]], Sequence[Any]], items: list[Any]) -> list[Any]:
    """One result or exception for each item."""
    try:
        results = list(call(items))
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
        if len(items) == 1:
            return [error]
        return [outcome for item in items for outcome in _outcomes(call, [item])]
    if len(results) != len(items):
        return [RuntimeError(f"{len(items)} items went in and {len(results)} results came out")] * len(items)
    return results


def _settle(batch: Sequence[_Ticket[Any, Any]], outcomes: Sequence[Any], started: float, took: float) -> None:
    for ticket, outcome in zip(batch, outcomes, strict=True):
        if ticket.answer.done():
            continue
        if isinstance(outcome, Exception):
            ticket.answer.set_exception(outcome)
        else:
            ticket.answer.set_result(Ran(outcome, started - ticket.since, took, len(batch)))
