"""Absence alone does not empty the roster.

When more than half of the workers vanish from the registry at once, it is likelier that the registry lost its memory
(an agent that was restarted empty, a token that shows nothing) than that they all died in the same moment. So they
stay, in doubt, for as long as they answer for themselves: who refuses, says that it drains, or turns out to be somebody
else goes. A worker that withdrew, or that left while most stayed, goes at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable

from muster.values import Snapshot, Worker

log = logging.getLogger(__name__)

Ask = Callable[[str, int], Awaitable[Worker | None]]

EVERY = 1.0
"""Seconds between two questions to a worker in doubt."""


class Doubt:
    """Stands between the registry's snapshots and who adopts them. `ask` finds out who serves at a host and port."""

    def __init__(self, adopt: Callable[[Snapshot], None], ask: Ask) -> None:
        self._adopt = adopt
        self._ask = ask
        self._told = Snapshot(0)  # by the registry
        self._doubted: dict[str, Worker] = {}
        self._raised = asyncio.Event()

    def apply(self, snapshot: Snapshot) -> None:
        """Adopt what the registry says now, and those of whom it suspiciously says nothing."""
        before = {worker.id: worker for worker in self._told.workers}
        present = {worker.id for worker in snapshot.workers} | snapshot.withdrawn
        vanished = {id_: worker for id_, worker in before.items() if id_ not in present}
        if 2 * len(vanished) > len(before):
            log.warning(
                "%d of %d workers vanished from the registry at once; they are kept as long as they answer",
                len(vanished),
                len(before),
            )
            self._doubted |= vanished
        taken = {worker.address for worker in snapshot.workers}
        self._doubted = {
            id_: worker for id_, worker in self._doubted.items() if id_ not in present and worker.address not in taken
        }
        self._told = snapshot
        if self._doubted:
            self._raised.set()
        self._publish()

    async def settle(self) -> None:
        """Ask those in doubt, for ever."""
        while True:
            await self._raised.wait()
            await asyncio.gather(*map(self._question, tuple(self._doubted.values())))
            if self._doubted:
                await asyncio.sleep(EVERY)
            else:
                self._raised.clear()

    async def _question(self, worker: Worker) -> None:
        answer = await self._ask(worker.host, worker.port)
        # Who does not say who it is goes by its address; that is as much as it ever said.
        honest = answer is not None and answer.id in (worker.id, worker.address)
        if not honest and self._doubted.pop(worker.id, None) is not None:
            log.warning("worker %s does not answer either, and is gone", worker.id)
            self._publish()
        elif answer is not None and answer.id == worker.id and worker.id in self._doubted:
            present = dataclasses.replace(worker, models=answer.models, versions=answer.versions)
            if present != worker:  # its models come and go while the registry knows nothing of it
                self._doubted[worker.id] = present
                self._publish()

    def _publish(self) -> None:
        told = self._told
        self._adopt(Snapshot(told.version, (*told.workers, *self._doubted.values()), told.withdrawn))
