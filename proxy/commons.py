"""What all requests share. Everything happens in one event loop, so nothing here needs a lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from muster.values import Snapshot
from proxy.pool import Pool
from proxy.replay import Budget
from proxy.rewrite import RequestIds
from proxy.roster import Roster
from proxy.settings import ProxySettings
from proxy.stats import Stats


@dataclass(slots=True)
class Commons:
    """The parts that every connection and every exchange uses."""

    loop: asyncio.AbstractEventLoop
    settings: ProxySettings
    roster: Roster
    stats: Stats
    request_ids: RequestIds
    pool: Pool
    replay: Budget
    app: Callable[[], asyncio.BaseProtocol]
    """Makes a server protocol of the aiohttp application, as accepting a connection would."""
    connections: int = 0
    """Clients' connections that are open."""
    draining: bool = False
    """The proxy is about to stop: no connection is kept after its answer."""

    def adopt(self, snapshot: Snapshot) -> None:
        """Go by a new snapshot of the workers."""
        for gone in self.roster.apply(snapshot):
            self.pool.forget(gone.id)
