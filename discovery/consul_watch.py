"""Knowing who is listed in Consul: a long poll on the health of one service.

The rules, each paid for by somebody:
- That a poll returned proves no change, so snapshots are compared.
- The index of the next poll is the last one's; one that went backwards or an error starts over at none, because an old
  index on an agent that was restarted blocks for the whole wait and misses what happens meanwhile.
- Any server may answer (`stale`), with or without a leader, as long as it heard from its leader lately. An older answer
  serves only who knows nothing yet.
- Errors wait and try again, and leave the last snapshot as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from random import Random
from urllib.parse import quote

import aiohttp
import orjson

from discovery import records
from discovery.consul_http import Answer, ConsulHttp, Refused, RegistryTrouble, Unreachable
from discovery.pacing import Backoff, TokenBucket
from discovery.trouble import Trouble
from muster.values import Snapshot, Worker

log = logging.getLogger(__name__)

WAIT = 10
"""Seconds a poll may be held; Consul adds up to a sixteenth. Short enough for every load balancer in between."""
MAX_STALENESS = 5.0
"""Seconds since the answering server last heard from its leader."""

_CONNECT = 2.0
_PROMPT = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=5)
_HELD = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=WAIT * 17 / 16 + 5)


class ConsulWatch:
    """One watcher of one service. `heard` is called at every answer it could use."""

    def __init__(
        self, http: ConsulHttp, service: str, clock: Callable[[], float], rng: Random, heard: Callable[[], None]
    ) -> None:
        self._http = http
        self._service = service
        self._bucket = TokenBucket(clock)
        self._backoff = Backoff(rng)
        self._heard = heard
        self._trouble = Trouble(log, f"the registry at {http.settings.where} answers")
        self._doubts = Trouble(log, "all records in the registry are in order")
        self._index = 0  # 0: answer at once

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """See `Registry.watch`."""
        known: tuple[Worker, ...] | None = None
        version = 0
        any_server = True
        while True:
            await asyncio.sleep(self._bucket.take())
            try:
                answer = await self._ask(stale=any_server)
                if known is not None and any_server and staleness(answer.headers) > MAX_STALENESS:
                    any_server = False  # so ask the leader, once
                    continue
                reading = self._read(answer)
            except RegistryTrouble as trouble:
                self._index = 0
                any_server = True
                self._trouble.report(str(trouble), logging.ERROR if isinstance(trouble, Refused) else logging.WARNING)
                await asyncio.sleep(self._backoff.next())
                continue
            any_server = True
            if reading.workers != known:
                known = reading.workers
                version += 1
                yield Snapshot(version, known, reading.withdrawn)

    async def _ask(self, *, stale: bool) -> Answer:
        where = self._http.settings.where
        query = f"/v1/health/service/{quote(self._service, safe='')}?"
        query += f"index={self._index}&wait={WAIT}s" if self._index else f"wait={WAIT}s"
        answer = await self._http.request(
            "GET", query + ("&stale" if stale else ""), timeout=_HELD if self._index else _PROMPT
        )
        if answer.status in (401, 403):
            raise Refused(
                f"the registry at {where} does not permit to watch {self._service!r}: {answer.text} "
                "(CONSUL_HTTP_TOKEN must allow service:read and node:read)"
            )
        if answer.status != 200:
            raise Unreachable(f"the registry at {where} answers with HTTP {answer.status}: {answer.text}")
        return answer

    def _read(self, answer: Answer) -> records.Reading:
        try:
            reading = records.read(orjson.loads(answer.body))
        except ValueError as error:
            raise Unreachable(f"what answers at {self._http.settings.where} is no registry: {error}") from None
        self._index = next_index(self._index, answer.headers)
        self._backoff.reset()
        self._trouble.over()
        self._heard()
        self._doubt(reading, filtered=answer.headers.get("X-Consul-Results-Filtered-By-ACLs") == "true")
        return reading

    def _doubt(self, reading: records.Reading, *, filtered: bool) -> None:
        if reading.complaints:
            count, first = len(reading.complaints), reading.complaints[0]
            self._doubts.report(f"records in the registry that are left out: {count}; one is {first:.300}")
        elif filtered:
            self._doubts.report("the registry hides workers: CONSUL_HTTP_TOKEN must allow service:read and node:read")
        else:
            self._doubts.over()


def next_index(old: int, headers: Mapping[str, str]) -> int:
    """The index to poll with after an answer: 0 if it went backwards, else at least 1, because 0 would not block."""
    new = _number(headers.get("X-Consul-Index"))
    return 0 if new < old else max(1, new)


def staleness(headers: Mapping[str, str]) -> float:
    """Seconds since the server that answered heard from its leader. Servers that do not say are up to date."""
    return _number(headers.get("X-Consul-LastContact")) / 1000


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0
