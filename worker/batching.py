"""Many callers in, one call out; it knows neither HTTP nor TensorFlow.

A `Batcher` is a queue in front of a function that works on lists, and has `Runners` call it. Nothing waits while a
runner is free: a batch is what queued up while all were busy, unless a wait is asked for. What must stay true:

- every submitted item gets exactly one outcome, its own. If a call fails, its halves are called, and so on down to
  single items, so nobody pays for a neighbour; and after a failure batches are small until some went well, so that
  somebody who sends bad items all the time cannot multiply the work;
- an item whose caller has gone, or whose deadline has passed, costs no call and no place, and a full queue refuses at
  once. Items go in order, unless most callers do not wait for their answers (`worker.patience`);
- state changes only in the event loop, in plain functions without an `await`, so each change is whole before anybody
  can look. There is no background task that could die.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from muster.errors import Draining, Overloaded
from worker.batching_queue import Queue
from worker.patience import Patience
from worker.runners import Call, Threads
from worker.status import Code, StatusError

In = TypeVar("In")
Out = TypeVar("Out")

OVERDUE = (Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
"""A deadline passed while the item ran."""
LATE = (Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
"""A deadline passed while the item waited for its batch to run."""
_BOUNDLESS = 1 << 30


@dataclass(frozen=True, slots=True)
class Ran(Generic[Out]):
    """What became of an item: its result, the seconds it waited and ran, how many rows shared the call, and how many
    more were padding.
    """

    result: Out
    waited: float
    took: float
    batch: int
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Called:
    """A call that was made: its rows, how many more were padding, and for each item its rows and how long it waited."""

    rows: int
    padding: int
    items: tuple[tuple[int, float], ...]


@dataclass(slots=True, eq=False)
class _Ticket(Generic[In, Out]):
    item: In
    rows: int
    kind: Hashable
    since: float
    deadline: float
    answer: asyncio.Future[Ran[Out]]


_Outcome: TypeAlias = tuple[Any, int, int]
"""A result or exception, the rows of the call it is from, and how many more were padding."""


class Batcher(Generic[In, Out]):
    """A queue in front of `call`, which takes some items, returns as many results or exceptions, and runs in a thread.

    A call gets items of one kind and at most `size` rows together, which `padded` may make more. `backlog` batches may
    wait; `wait` seconds at most may the first item of a batch wait for company although a runner is free. `late` is the
    error of those whose deadline passes before they run. `told` hears of every call, once.
    """

    def __init__(
        self,
        call: Callable[[Sequence[In]], Sequence[Out | Exception]],
        runners: Threads,
        *,
        size: int = 1,
        backlog: int | None = None,
        wait: float = 0.0,
        padded: Callable[[int], int] = lambda rows: rows,
        late: tuple[Code, str] = LATE,
        told: Callable[[Called], None] | None = None,
    ) -> None:
        self._call = call
        self._runners = runners
        self._backlog = backlog
        self._wait = wait
        self._padded = padded
        self._late = late
        self._told = told
        self._queue: Queue[_Ticket[In, Out]] = Queue(size, backlog, wait)
        self._patience = Patience()
        self._trust = _BOUNDLESS  # so many items are run together
        self._running = 0
        self._idle: asyncio.Event | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Batcher: {self.waiting} waiting, {self._running} calls>"

    @property
    def waiting(self) -> int:
        """Items in the queue whose callers are still there."""
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Does anything wait or run?"""
        return bool(self._running or self._queue)

    @property
    def full(self) -> bool:
        """Would any item be refused?"""
        return self._queue.full

    async def submit(self, item: In, rows: int = 1, kind: Hashable = None, deadline: float | None = None) -> Ran[Out]:
        """The outcome of `item`. See `submit_all`."""
        return (await self.submit_all([(item, rows)], kind, deadline))[0]

    async def submit_all(
        self, items: Sequence[tuple[In, int]], kind: Hashable = None, deadline: float | None = None
    ) -> list[Ran[Out]]:
        """The outcomes of items of so many rows each, which are admitted together or not at all.

        `deadline` is by the loop's clock. Raises what `call` raised for one of them; Overloaded from a full queue;
        StatusError if the deadline passes; Draining after `close`.
        """
        tickets = self._admit(items, kind, deadline)
        timer = None
        if deadline is not None:
            timer = asyncio.get_running_loop().call_at(deadline, self._expire, tickets)
        try:
            return [await ticket.answer for ticket in tickets]
        finally:
            if timer is not None:
                timer.cancel()
            for ticket in tickets:
                self._let_go(ticket)

    def overloaded(self) -> Overloaded:
        """What is said to those who do not fit in."""
        return Overloaded(
            "The batch scheduling queue to which this task was submitted is full; currently "
            f"{self._queue.batches} batches enqueued and max_enqueued_batches is {self._backlog}",
            queue=self.waiting,
        )

    async def idle(self) -> None:
        """Return when no call is under way. Its callers may have gone long before."""
        if self._running:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    def close(self) -> None:
        """Refuse what comes and what waits. Calls that run go on."""
        self._closed = True
        for ticket in self._queue.clear():
            if not ticket.answer.done():
                ticket.answer.set_exception(Draining("this worker is stopping"))

    @property
    def due(self) -> bool:
        """Is there a batch that need not wait for company any longer?"""
        return self._queue.due(asyncio.get_running_loop().time())

    def next_call(self) -> Call | None:
        """Take a batch off the queue: what to do in a thread, which returns what to do afterwards in the loop."""
        now = asyncio.get_running_loop().time()
        while tickets := self._queue.take(now, self._trust, newest=self._patience.newest_first):
            batch = [ticket for ticket in tickets if not self._lost(ticket, now)]
            if batch:
                self._running += 1
                return lambda: self._run(batch, now)
        return None

    def _admit(self, items: Sequence[tuple[In, int]], kind: Hashable, deadline: float | None) -> list[_Ticket[In, Out]]:
        if self._closed:
            raise Draining("this worker is stopping")
        loop = asyncio.get_running_loop()
        now = loop.time()
        if deadline is not None and deadline <= now:
            raise StatusError(*self._late)
        if not self._queue.fits([rows for _, rows in items], kind):
            raise self.overloaded()
        until = math.inf if deadline is None else deadline
        tickets: list[_Ticket[In, Out]] = [
            _Ticket(item, rows, kind, now, until, loop.create_future()) for item, rows in items
        ]
        for ticket in tickets:
            if self._queue.put(ticket) and self._wait:
                loop.call_at(now + self._wait, self._runners.offer, self)
        self._runners.offer(self)
        return tickets

    def _expire(self, tickets: Sequence[_Ticket[In, Out]]) -> None:
        """Their deadline is over."""
        error = self._late if any(ticket in self._queue for ticket in tickets) else OVERDUE
        for ticket in tickets:
            if not ticket.answer.done():
                ticket.answer.set_exception(StatusError(*error))
                self._patience.lost()

    def _let_go(self, ticket: _Ticket[In, Out]) -> None:
        """Nobody waits for this any more."""
        if ticket in self._queue:
            self._queue.leave(ticket)
        if ticket.answer.cancel() or ticket.answer.cancelled():
            self._patience.lost()
        else:
            ticket.answer.exception()  # of several only the first is raised; nobody shall miss the others

    def _lost(self, ticket: _Ticket[In, Out], now: float) -> bool:
        """Would it be a waste to run this?"""
        if ticket.deadline <= now and not ticket.answer.done():
            ticket.answer.set_exception(StatusError(*self._late))
            self._patience.lost()
        return ticket.answer.done()

    def _run(self, batch: list[_Ticket[In, Out]], started: float) -> Callable[[], None]:
        begun = time.monotonic()
        try:
            outcomes = self._outcomes(batch)
        except BaseException as error:  # noqa: BLE001  # a promise is a promise, even to those whom sys.exit cuts off
            outcomes = [(RuntimeError(f"the call ended with {error!r}"), 0, 0)] * len(batch)
        took = time.monotonic() - begun
        return lambda: self._settle(batch, outcomes, started, took)

    def _outcomes(self, batch: list[_Ticket[In, Out]]) -> list[_Outcome]:
        """One outcome for each ticket."""
        try:
            results = self._call([ticket.item for ticket in batch])
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
            if len(batch) == 1:
                return [(error, 0, 0)]
            half = len(batch) // 2
            return self._outcomes(batch[:half]) + self._outcomes(batch[half:])
        if len(results) != len(batch):
            lost = RuntimeError(f"{len(batch)} items went in and {len(results)} results came out")
            return [(lost, 0, 0)] * len(batch)
        rows = sum([ticket.rows for ticket in batch])
        padding = self._padded(rows) - rows
        return [(result, rows, padding) for result in results]

    def _settle(
        self, batch: Sequence[_Ticket[In, Out]], outcomes: Sequence[_Outcome], started: float, took: float
    ) -> None:
        self._running -= 1
        if self._idle is not None and not self._running:
            self._idle.set()
            self._idle = None
        if self._told is not None:
            rows = sum([ticket.rows for ticket in batch])
            items = tuple([(ticket.rows, started - ticket.since) for ticket in batch])
            self._told(Called(rows, self._padded(rows) - rows, items))
        self._learn(len(batch), any(isinstance(result, Exception) for result, _, _ in outcomes))
        for ticket, (result, rows, padding) in zip(batch, outcomes, strict=True):
            if ticket.answer.done():
                continue
            self._patience.served()
            if isinstance(result, Exception):
                ticket.answer.set_exception(result)
            else:
                ticket.answer.set_result(Ran(result, started - ticket.since, took, rows, padding))

    def _learn(self, items: int, failed: bool) -> None:
        if failed and items > 1:
            self._trust = items // 2
        elif not failed and items >= self._trust:
            self._trust = min(2 * self._trust, _BOUNDLESS)
