"""A `Registry` that is a Consul agent, or anything that speaks like one."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from discovery.consul_announce import Rhythm, announce
from discovery.consul_http import ConsulHttp, connected
from discovery.consul_settings import ConsulSettings
from discovery.consul_watch import ConsulWatch
from discovery.consul_writes import ConsulWrites
from discovery.registry import Listing
from muster.lifetime import Stop
from muster.values import Snapshot, Worker


class ConsulRegistry:
    """Made by `consul_registry`; the connections are open as long as that block."""

    def __init__(self, writes: ConsulHttp, reads: ConsulHttp, service: str, stop: Stop, rhythm: Rhythm) -> None:
        self._writes = ConsulWrites(writes)
        self._reads = reads
        self._service = service
        self._stop = stop
        self._rhythm = rhythm
        self._rng = random.Random()  # noqa: S311  # for jitter
        self._heard_at: float | None = None

    def announce(self, worker: Worker) -> AbstractAsyncContextManager[Listing]:
        """See `Registry.announce`."""
        return announce(self._writes, worker, self._service, self._stop, self._rhythm, self._rng)

    def watch(self) -> AsyncIterator[Snapshot]:
        """See `Registry.watch`."""
        return ConsulWatch(self._reads, self._service, time.monotonic, self._rng, self._heard).snapshots()

    @property
    def contact_age(self) -> float | None:
        """See `Registry.contact_age`. While nothing changes it grows to a poll's wait, ten seconds, and no more."""
        return None if self._heard_at is None else time.monotonic() - self._heard_at

    def _heard(self) -> None:
        self._heard_at = time.monotonic()


@asynccontextmanager
async def consul_registry(
    settings: ConsulSettings,
    service: str,
    stop: Stop,
    rhythm: Rhythm = Rhythm(),  # noqa: B008  # it is immutable
) -> AsyncIterator[ConsulRegistry]:
    """Raises ValueError, one sentence, for TLS files that cannot be loaded."""
    async with connected(settings) as writes, connected(settings) as reads:
        yield ConsulRegistry(writes, reads, service, stop, rhythm)
