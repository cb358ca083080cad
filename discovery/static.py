"""A registry that is a fixed list of addresses: who is alive is found out by asking them.

Nobody can announce here: a worker of a static cluster stands in somebody's list already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from discovery.probe import Probe, probing
from discovery.registry import Listing
from discovery.worker_json import in_order
from muster.values import Snapshot, Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Probing:
    """How the addresses are asked, in seconds."""

    every: float = 1.0
    timeout: float = 1.0


class StaticRegistry:
    """Made by `static_registry`; its connections are open as long as that block."""

    def __init__(self, places: Sequence[tuple[str, int]], probe: Probe, every: float) -> None:
        self._places = places
        self._probe = probe
        self._every = every
        self._heard_at: float | None = None

    @asynccontextmanager
    async def announce(self, worker: Worker) -> AsyncIterator[Listing]:
        """Do nothing, and say so where somebody could expect more: a list of nobody is a worker that is alone."""
        if self._places:
            log.info("%s announces itself nowhere: the registry is a fixed list", worker.id)
        yield _Unlisted()

    async def watch(self) -> AsyncIterator[Snapshot]:
        """See `Registry.watch`; the first snapshot comes when every address was asked once."""
        if not self._places:
            log.warning("the fixed list of workers is empty")
        known: tuple[Worker, ...] | None = None
        version = 0
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._every
            found = await asyncio.gather(*(self._probe.ask(host, port) for host, port in self._places))
            self._heard_at = time.monotonic()
            workers = in_order(worker for worker in found if worker is not None)
            if workers != known:
                known = workers
                version += 1
                yield Snapshot(version, known)
            await asyncio.sleep(due - loop.time())

    @property
    def contact_age(self) -> float | None:
        """Seconds since the last round of questions ended."""
        return None if self._heard_at is None else time.monotonic() - self._heard_at


class _Unlisted:
    def update(self, worker: Worker) -> None:
        """Whoever has the worker on a list reads it on its `/readyz`."""

    async def withdraw(self, reason: str) -> None:
        """Whoever has the worker on a list sees it drain by its `/readyz`."""


@asynccontextmanager
async def static_registry(
    places: Sequence[tuple[str, int]],
    rhythm: Probing = Probing(),
) -> AsyncIterator[StaticRegistry]:
    """The registry of the workers at `places`, pairs of host and port."""
    async with probing(rhythm.timeout) as probe:
        yield StaticRegistry(places, probe, rhythm.every)
