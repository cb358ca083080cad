"""What several proxy processes know of each other, so that whichever is asked can answer for all of them.

Each has a Unix socket in a folder that only they can look into. Who connects gets all that the process has to say, as
one piece of JSON, and the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from proxy.place import Place

log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds that a sibling may take. One that takes longer is left out, which can be seen."""
LARGEST = 64 * 2**20
"""Bytes that a sibling may say."""

Told = dict[str, Any]


class Siblings:
    """The other processes; made by `among_siblings`."""

    def __init__(self, place: Place) -> None:
        self.number = place.number
        self.of = place.of
        self._folder = Path(place.directory)

    async def ask(self) -> dict[int, Told]:
        """What each of the others says, by its number. Who does not answer in time is missing."""
        newest: dict[int, Path] = {}
        for path in sorted(self._folder.glob("*.socket"), key=_age):  # of one that is being replaced, its successor
            number = int(path.name.partition("-")[0])
            if number != self.number:
                newest[number] = path
        answers = await asyncio.gather(*map(self._ask, newest.values()))
        return {number: told for number, told in zip(newest, answers, strict=True) if told is not None}

    async def _ask(self, path: Path) -> Told | None:
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_unix_connection(str(path), limit=LARGEST)
                try:
                    told: Told = orjson.loads(await reader.read())
                    return told
                finally:
                    writer.close()
        except ConnectionError:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108  # it was killed
        except (OSError, ValueError) as error:
            log.warning("a process does not say what it knows: %r", error)
        return None


def _age(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


@asynccontextmanager
async def among_siblings(place: Place | None, tell: Callable[[], Told]) -> AsyncIterator[Siblings | None]:
    """Let the others ask, while the block lasts, what `tell` says. None for a process that is alone."""
    if place is None:
        yield None
        return

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(orjson.dumps(tell()))
            await writer.drain()
        writer.close()

    path = Path(place.directory) / f"{place.number}-{os.getpid()}.socket"
    server = await asyncio.start_unix_server(answer, path)
    try:
        yield Siblings(place)
    finally:
        path.unlink(missing_ok=True)
        server.close()
