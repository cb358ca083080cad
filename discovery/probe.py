"""Asking a worker itself: is it fit to serve, and who is it?

Any server can be asked, TensorFlow Serving's own too: whatever answers `GET /readyz` with anything but a server error
is fit. A worker of ours says 503 there while it drains, and otherwise tells who it is; where it can be reached is never
its to tell.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson

from discovery.bodies import read_at_most
from discovery.endpoints import join
from discovery.worker_json import from_json
from muster import wire
from muster.values import Worker

_MAX_ANSWER = 512 * 1024  # bytes; thousands of versions


class Probe:
    """Made by `probing`; its connections are open as long as that block."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, host: str, port: int) -> Worker | None:
        """The worker there, None if there is none that could serve. Who does not say its name goes by its address."""
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

    async def alive(self, host: str, port: int) -> bool:
        """Does anybody answer there, whatever it is? One that drains does."""
        try:
            async with self._session.get(f"http://{join(host, port)}{wire.READYZ}", allow_redirects=False):
                return True
        except (aiohttp.ClientError, OSError):
            return False


@asynccontextmanager
async def probing(timeout: float) -> AsyncIterator[Probe]:  # noqa: ASYNC109  # each question's, not this function's
    """A probe that waits `timeout` seconds for an answer."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield Probe(session)
