"""Who left the registry while answers were owed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from discovery.probe import Finding
from muster.values import Worker
from proxy import departures
from proxy.departures import Departures
from proxy.seats import Seat
from tests.proxy.harness import until


class Asked:
    """Answers for everybody, and counts."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = list(findings)
        self.count = 0

    async def __call__(self, host: str, port: int) -> tuple[Finding, Worker | None]:
        self.count += 1
        return (self.findings.pop(0) if len(self.findings) > 1 else self.findings[0]), None


def seat(in_flight: int) -> Seat:
    one = Seat(Worker("ann", "127.0.0.1", 1), 10)
    one.in_flight = in_flight
    return one


@asynccontextmanager
async def settling(one: Departures, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(departures, "EVERY", 0.0)
    task = asyncio.create_task(one.settle())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_who_owes_answers_and_is_dead_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[Seat] = []
    ask, ann = Asked(Finding.UNFIT, Finding.FIT, Finding.DEAD), seat(3)
    leaving = Departures(ask, lost.append)
    async with settling(leaving, monkeypatch):
        leaving.add(ann)
        await until(lambda: bool(lost))
        assert lost[0] is ann
        assert ask.count >= 3


async def test_who_drains_is_left_in_peace_until_nothing_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[Seat] = []
    ask, ann = Asked(Finding.UNFIT), seat(3)
    leaving = Departures(ask, lost.append)
    async with settling(leaving, monkeypatch):
        leaving.add(ann)
        await until(lambda: ask.count > 3)
        ann.in_flight = 0
        await asyncio.sleep(0.02)
        asked = ask.count
        await asyncio.sleep(0.02)
        assert ask.count == asked
    assert not lost


async def test_who_owes_nothing_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(Finding.DEAD)
    leaving = Departures(ask, lambda _: None)
    async with settling(leaving, monkeypatch):
        leaving.add(seat(0))
        await asyncio.sleep(0.02)
    assert ask.count == 0
