"""Staying listed in Consul: a loop, not a call, because agents restart, forget and refuse.

Every beat passes the worker's TTL check, from the event loop that serves its requests, so the beats stop when serving
stops. A beat that finds the worker forgotten registers it again at once. Once in a while the whole registration is sent
again, whether it seems needed or not: that repairs what somebody else changed in it, and wakes nobody if nothing was.
What the worker says anew of itself is sent at once, in the same way, so its checks keep their state.
One lock keeps the writes in order: nothing that lists the worker can overtake its withdrawal or its leaving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from discovery import records
from discovery.consul_http import Refused, RegistryTrouble
from discovery.consul_writes import ConsulWrites
from discovery.registry import Listing
from discovery.trouble import Trouble
from muster.lifetime import Stop, supervised
from muster.values import Worker

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that entering, withdrawing and leaving wait for the registry at most."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often a worker tells what, in seconds."""

    ttl: float = 3.0  # without a beat for so long it counts as dead; beats come three times as often
    assertion: float = 45.0  # the registration again, each time ± a third, so that a fleet does not march in step
    refused: float = 5.0  # after a refusal: somebody has to change something first

    @property
    def beat(self) -> float:
        """From one beat to the next."""
        return self.ttl / 3


@asynccontextmanager
async def announce(
    writes: ConsulWrites, worker: Worker, service: str, stop: Stop, rhythm: Rhythm, rng: Random
) -> AsyncIterator[Listing]:
    """Keep `worker` listed under `service` while the block lasts, as `Registry.announce` promises."""
    listing = _ConsulListing(writes, worker, service, rhythm, rng)
    async with supervised(f"announcing {worker.id}", listing.keep(), stop):
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await listing.begun.wait()
            yield listing
        finally:
            await listing.leave()


class _ConsulListing:
    def __init__(self, writes: ConsulWrites, worker: Worker, service: str, rhythm: Rhythm, rng: Random) -> None:
        self.begun = asyncio.Event()  # the first attempt is over, whatever came of it
        self._writes = writes
        self._worker = worker
        self._service = service
        self._registration = records.registration(worker, service, rhythm.ttl)
        self._listed: Mapping[str, Any] | None = None  # what was registered last
        self._news = asyncio.Event()  # the worker says something else of itself
        self._rhythm = rhythm
        self._rng = rng
        self._lock = asyncio.Lock()
        self._trouble = Trouble(log, f"the registry listens to {worker.id} again")
        self._assert_at = 0.0  # by the loop's clock
        self._withdrawn: str | None = None  # the reason
        self._withdrawal_told = False

    async def keep(self) -> None:
        """Beat until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + await self._step()
            self.begun.set()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._news.wait()

    def update(self, worker: Worker) -> None:
        """See `Listing.update`."""
        if (worker.id, worker.address) != (self._worker.id, self._worker.address):
            raise ValueError(f"{self._worker.id} cannot become {worker.id} at {worker.address}")
        self._registration = records.registration(worker, self._service, self._rhythm.ttl)
        self._news.set()

    async def withdraw(self, reason: str) -> None:
        """See `Listing.withdraw`."""
        self._withdrawn = reason
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._step()

    async def leave(self) -> None:
        """Off the list. If the registry cannot be told, the missing beats will tell it.

        It ends with the loop still waiting for the lock or its next beat, and `supervised` cancels that before anything
        else runs, so no step follows.
        """
        try:
            async with asyncio.timeout(PATIENCE), self._lock:
                await self._writes.deregister(self._worker.id)
        except (RegistryTrouble, TimeoutError) as error:
            log.warning(
                "%s left without being taken off the list: %s", self._worker.id, str(error) or "no answer in time"
            )

    async def _step(self) -> float:
        """Bring the registry one step nearer to the truth. The result is when to take the next: in so many seconds."""
        async with self._lock:
            self._news.clear()
            try:
                if self._withdrawn is None:
                    await self._stay_listed()
                elif not self._withdrawal_told:
                    await self._writes.maintenance(self._worker.id, enable=True, reason=self._withdrawn)
                    self._withdrawal_told = True
            except Refused as refusal:
                self._trouble.report(str(refusal), logging.ERROR)
                return self._rhythm.refused
            except RegistryTrouble as trouble:
                self._trouble.report(f"{self._worker.id} keeps trying to be heard: {trouble}")
            else:
                self._trouble.over()
            return self._rhythm.beat

    async def _stay_listed(self) -> None:
        if self._listed is None:
            await self._register(afresh=True)
            log.info("%s is listed at %s", self._worker.id, self._worker.address)
            return
        if self._listed is not self._registration or asyncio.get_running_loop().time() >= self._assert_at:
            await self._register(afresh=False)  # which is no heartbeat
        if not await self._writes.beat(records.ttl_check_id(self._worker.id)):
            log.warning("the registry has forgotten %s, which registers again", self._worker.id)
            await self._register(afresh=False)

    async def _register(self, *, afresh: bool) -> None:
        registration = self._registration  # which may be another one when this one is through
        await self._writes.register(registration, afresh=afresh)
        self._listed = registration
        third = self._rhythm.assertion / 3
        self._assert_at = asyncio.get_running_loop().time() + self._rng.uniform(2 * third, 4 * third)
