"""Asking a worker itself: is it fit to serve, and who is it?

Any server can be asked, TensorFlow Serving's own too: whatever answers `GET /readyz` with anything but a server error
is fit. A worker of ours says 503 there while it drains, and otherwise tells who it is; where it can be reached is never
its to tell.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto

import aiohttp
import orjson

from discovery.bodies import read_at_most
from discovery.endpoints import join
from discovery.names import Names, connector
from discovery.worker_json import from_json
from muster import wire
from muster.values import Worker

_MAX_ANSWER = 512 * 1024  # bytes; thousands of versions


class Finding(Enum):
    """How somebody is."""

    FIT = auto()
    UNFIT = auto()  # it answers, and says that it cannot serve: it drains, or loads its models
    DEAD = auto()  # it refuses, breaks off, or does not answer in time


class Probe:
    """Made by `probing`; its connections are open as long as that block."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, host: str, port: int) -> Worker | None:
        """The worker there, None if there is none that could serve. Who does not say its name goes by its address."""
        _, worker = await self.look(host, port)
        return worker

    async def look(self, host: str, port: int, within: float | None = None) -> tuple[Finding, Worker | None]:
        """How the worker there is, and who, if it is fit. `within`: another time limit than usual, in seconds."""
        address = join(host, port)
        limit = self._session.timeout if within is None else aiohttp.ClientTimeout(total=within)
        try:
            async with self._session.get(
                f"http://{address}{wire.READYZ}", allow_redirects=False, timeout=limit
            ) as answer:
                if answer.status >= 500:
                    return Finding.UNFIT, None
                told = orjson.loads(await read_at_most(answer, _MAX_ANSWER))["worker"]
                return Finding.FIT, from_json({**told, "host": host, "port": port})
        except (aiohttp.ClientError, OSError):
            return Finding.DEAD, None
        except (ValueError, TypeError, KeyError, OverflowError):  # it serves, and does not say who it is
            return Finding.FIT, Worker(id=address, host=host, port=port)


@asynccontextmanager
async def probing(
    timeout: float,  # noqa: ASYNC109  # each question's, not this function's
    names: Names | None = None,
) -> AsyncIterator[Probe]:
    """A probe that waits `timeout` seconds for an answer, and finds hosts by `names`."""
    async with aiohttp.ClientSession(
        connector=connector(names or Names()),
        timeout=aiohttp.ClientTimeout(total=timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield Probe(session)
