"""The two verbs of discovery: a worker announces itself, a proxy watches who is there.

`discovery.addresses.open_registry` turns an address into a `Registry`. Every kind keeps these promises:
being listed is something one keeps doing, so an `announce` outlives every outage of the registry;
and what a watcher knows stays true until the registry says otherwise, so an outage empties no snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from muster.values import Snapshot, Worker


class Listing(Protocol):
    """A worker's place in the registry, for as long as its `announce` block lasts."""

    def update(self, worker: Worker) -> None:
        """Say this of the worker from now on: the same one, at the same place, with other models or a new weight.

        Returns at once; watchers see it within milliseconds, or when the registry is back. What was said last counts,
        and nothing does after `withdraw`. Raises ValueError for what `announce` would not have listed.
        """

    async def withdraw(self, reason: str) -> None:
        """Tell every watcher to send nothing new; the requests in flight go on. It cannot be taken back.

        Returns when the registry has confirmed it, or after two seconds at most: what failed by then is logged and
        tried again until the block ends. Raises nothing.
        """


class Registry(Protocol):
    """Where workers are listed."""

    def announce(self, worker: Worker) -> AbstractAsyncContextManager[Listing]:
        """Keep `worker` listed until the block ends, which takes it off the list.

        The block begins when the worker is listed for the first time, or after two seconds at most: a registry that
        is away or refuses is logged, once, and tried until it works. Announce only what is ready to serve.
        Raises ValueError for a worker that no registry could list.
        """

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the present snapshot as soon as it is known, then another after every change of the workers.

        There is no queue: who reads slowly misses intermediate states, never the latest. It never ends and raises
        nothing; an unreachable registry yields nothing, because a stale truth serves better than an empty one.
        """

    @property
    def contact_age(self) -> float | None:
        """Seconds since the registry last answered a watcher of this process, None before the first answer."""
