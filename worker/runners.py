"""The threads in which models run, shared by all of a process's queues; those with waiting work take turns.

A model call computes in its thread, on one core and without the GIL, so there are as many runners as cores. State
changes only in the event loop, in plain functions without an `await`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeAlias

Call: TypeAlias = Callable[[], Callable[[], None]]
"""What to do in a thread, which returns what to do afterwards in the event loop. Neither may raise."""


class Line(Protocol):
    """Somebody with work for a runner."""

    def next_call(self) -> Call | None:
        """The next work, if there is some that need not wait any longer."""

    @property
    def due(self) -> bool:
        """Is there such work?"""


class Threads(Protocol):
    """Where lines get their work done."""

    def offer(self, line: Line) -> None:
        """Let `line` have a thread, now or as soon as it is its turn."""


class Turns:
    """Lines that take turns. They are a line themselves: who has many of them gets no more turns than who has one."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Line, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: Line) -> None:
        """`line` has work."""
        self._lines.setdefault(line)

    @property
    def due(self) -> bool:
        """Is there a line with work that need not wait any longer?"""
        return any(line.due for line in self._lines)

    def next_call(self) -> Call | None:
        """The next work of the line whose turn it is."""
        while self._lines:
            line, _ = self._lines.popitem(last=False)
            call = line.next_call()
            if call is not None:
                if line.due:
                    self._lines[line] = None
                return call
        return None


class Runners:
    """A fixed number of threads. None of them is idle while there is work that is due.

    They are plain threads with a queue: what an executor does more for each call takes longer than small models do.
    """

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[tuple[Call, asyncio.AbstractEventLoop] | None] = SimpleQueue()
        self._free = count
        self._turns = Turns()
        self._threads = [Thread(target=self._work, name=f"runner_{number}", daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        return f"<Runners: {self._free} free, {len(self._turns)} lines waiting>"

    def offer(self, line: Line) -> None:
        """Let `line` have a thread, now or as soon as it is its turn."""
        self._turns.add(line)
        self._go_on()

    def close(self) -> None:
        """End the threads. A call that runs is not waited for, its outcome is dropped."""
        for _ in self._threads:
            self._calls.put(None)

    def _go_on(self) -> None:
        while self._free and (call := self._turns.next_call()):
            self._free -= 1
            self._calls.put((call, asyncio.get_running_loop()))

    def _work(self) -> None:
        """What a thread does, until it is told to end."""
        while (work := self._calls.get()) is not None:
            call, loop = work
            afterwards = call()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._done, afterwards)
            del work, call, loop, afterwards  # what they hold must not wait for the next call

    def _done(self, afterwards: Callable[[], None]) -> None:
        self._free += 1
        afterwards()
        self._go_on()
