"""One attempt: its seat is released once, and a connection that nobody wants any more is closed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from muster.values import Worker
from proxy.attempt import Attempt
from proxy.dispatch import Failure
from proxy.health import Outcome
from proxy.seats import Seat


class Part:
    """Stands for everything that an attempt talks to, and notes what it hears."""

    def __init__(self) -> None:
        self.released: list[Outcome] = []
        self.heard: list[object] = []
        self.closed = 0
        self.connected: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.connection = SimpleNamespace(transport=SimpleNamespace(close=self._close, is_closing=lambda: False))
        fitness = SimpleNamespace(resting=lambda _: False)
        roster = SimpleNamespace(release=lambda _, outcome, seconds: self.released.append(outcome), fitness=fitness)
        pool = SimpleNamespace(take=lambda *_: None, connect=self._connect)
        self.attempt = Attempt(
            SimpleNamespace(roster=roster, pool=pool, loop=asyncio.get_running_loop()),  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            Seat(Worker("ann", "127.0.0.1", 1), 1),
            0.0,
        )

    async def _connect(self, worker: Worker) -> Any:
        return await self.connected

    def _close(self) -> None:
        self.closed += 1

    def on_connected(self, attempt: Attempt, connection: object) -> None:
        self.heard.append(connection)

    def on_failure(self, attempt: Attempt, failure: Failure, *, answered: bool) -> None:
        self.heard.append(failure)


async def test_a_connection_that_came_about_as_its_attempt_was_given_up_is_closed() -> None:
    part = Part()
    part.attempt.begin(0.0)
    await asyncio.sleep(0)
    part.connected.set_result(part.connection)
    asyncio.get_running_loop().call_soon(part.attempt.drop, Outcome.CANCELLED)  # it is there, and nobody knows yet
    for _ in range(3):
        await asyncio.sleep(0)
    assert part.closed == 1
    assert part.heard == []
    assert part.released == [Outcome.CANCELLED]


async def test_an_attempt_that_is_given_up_connects_no_more() -> None:
    part = Part()
    part.attempt.begin(0.0)
    await asyncio.sleep(0)
    part.attempt.drop(Outcome.CANCELLED)
    for _ in range(3):
        await asyncio.sleep(0)
    assert part.connected.cancelled()
    assert part.heard == []


@pytest.mark.parametrize("times", [1, 2])
async def test_its_seat_is_released_once(times: int) -> None:
    part = Part()
    for _ in range(times):
        part.attempt.drop(Outcome.SILENT)
    assert part.released == [Outcome.SILENT]


async def test_a_connection_on_which_the_worker_hung_up_before_it_was_used_is_none() -> None:
    part = Part()
    part.attempt.begin(0.0)
    await asyncio.sleep(0)
    part.connection.transport.is_closing = lambda: True
    part.connected.set_result(part.connection)
    for _ in range(3):
        await asyncio.sleep(0)
    assert part.heard == [Failure.UNREACHABLE]
