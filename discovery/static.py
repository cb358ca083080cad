"""A registry that is a fixed list of addresses: who is alive is found out by asking them.

Any server can be on the list, TensorFlow Serving's own too: whatever answers `GET /readyz` with anything but a server
error is fit to serve. A worker of ours says 503 there while it drains, and otherwise tells who it is; where it can be
reached is never its to tell, that is what the list is for. Nobody can announce here: a worker of a static cluster
stands in somebody's list already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import orjson

from discovery.bodies import read_at_most
from discovery.endpoints import join
from discovery.registry import Listing
from discovery.worker_json import from_json, in_order
from muster import wire
from muster.values import Snapshot, Worker

log = logging.getLogger(__name__)

_MAX_ANSWER = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Probing:
    """How the addresses are asked, in seconds."""

    every: float = 1.0
    timeout: float = 1.0


class StaticRegistry:
    """Made by `static_registry`; its connections are open as long as that block."""

    def __init__(self, places: Sequence[tuple[str, int]], session: aiohttp.ClientSession, probing: Probing) -> None:
        self._places = places
        self._session = session
        self._probing = probing
        self._heard_at: float | None = None

    @asynccontextmanager
    async def announce(self, worker: Worker) -> AsyncIterator[Listing]:
        """Do nothing, and say so."""
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
            due = loop.time() + self._probing.every
            found = await asyncio.gather(*(self._probe(host, port) for host, port in self._places))
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

    async def _probe(self, host: str, port: int) -> Worker | None:
        """The worker there, None if there is none that could serve."""
        address = join(host, port)
        try:
            async with self._session.get(f"http://{address}{wire.READYZ}", allow_redirects=False) as answer:
                if answer.status >= 500:
                    return None
                told = orjson.loads(await read_at_most(answer, _MAX_ANSWER))["worker"]
                return from_json({**told, "host": host, "port": port})
        except (aiohttp.ClientError, OSError):
            return None
        except (ValueError, TypeError, KeyError, OverflowError):  # it serves, and does not say who it is
            return Worker(id=address, host=host, port=port)


class _Unlisted:
    async def withdraw(self, reason: str) -> None:
        """Whoever has the worker on a list sees it drain by its `/readyz`."""


@asynccontextmanager
async def static_registry(
    places: Sequence[tuple[str, int]],
    probing: Probing = Probing(),
) -> AsyncIterator[StaticRegistry]:
    """The registry of the workers at `places`, pairs of host and port."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=probing.timeout), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield StaticRegistry(places, session, probing)
