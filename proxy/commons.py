"""What all requests share. Everything happens in one event loop, so nothing here needs a lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from muster.turns import Turns
from muster.values import Snapshot
from proxy.access import AccessLog
from proxy.budget import RetryBudget
from proxy.hedging import HedgeClock
from proxy.pool import Pool
from proxy.replay import Budget
from proxy.rewrite import RequestIds
from proxy.roster import Roster
from proxy.seats import Seat
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
    access: AccessLog | None = None
    """None if there is none."""
    connections: int = 0
    """Clients' connections that are open."""
    grpc_calls: int = 0
    """Calls of gRPC that are under way, until their clients have taken the answers."""
    grpc_bytes: int = 0
    """Bytes of their messages that are here."""
    draining: bool = False
    """The proxy is about to stop: no connection is kept after its answer."""

    on_left: list[Callable[[Seat], None]] = field(default_factory=list)
    """Whom to tell of each worker that has left."""
    change: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the next change of the workers, or when the proxy is about to stop; then there is a new one."""
    turns: Turns = field(init=False)
    """For clients who send more than is read at once."""
    retries: RetryBudget = field(init=False)
    hedges: HedgeClock = field(init=False)

    def __post_init__(self) -> None:
        self.turns = Turns(self.loop)
        self.retries = RetryBudget(self.settings.retry_budget)
        self.roster.fitness.on_death.append(lambda seat: self.retries.grant(seat.in_flight))
        self.hedges = HedgeClock(self.loop, self.settings.hedge_after)

    def adopt(self, snapshot: Snapshot) -> None:
        """Go by a new snapshot of the workers."""
        for seat in self.roster.apply(snapshot):
            self.pool.forget(seat.worker.id)
            for tell in self.on_left:
                tell(seat)
        self.changed()

    def leave(self) -> None:
        """The proxy is about to stop: whoever goes by that, or waits for a change, is told."""
        self.draining = True
        self.changed()

    def changed(self) -> None:
        """Wake those who wait for a `change`."""
        change, self.change = self.change, asyncio.Event()
        change.set()
