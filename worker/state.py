"""Where this worker is in its life: loading, ready, draining. The doors ask it, `worker.serve` moves it on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

from muster.errors import Draining, Loading
from muster.values import Worker
from worker.models.catalogue import Catalogue


class State:
    """One worker's state. It only ever goes forward."""

    def __init__(self, worker: Worker, catalogue: Catalogue) -> None:
        self.worker = worker.serving(catalogue.available)
        """What it says of itself; it follows the catalogue, and is up to date when others hear of a change."""
        self._catalogue = catalogue
        catalogue.on_change(self._describe)
        self._started = False
        self._draining = False
        self._work = _Work()
        self._on_change: list[Callable[[], None]] = []

    @property
    def name(self) -> str:
        """`loading`, `ready` or `draining`."""
        if self._draining:
            return "draining"
        return "ready" if self._started else "loading"

    @property
    def draining(self) -> bool:
        """Is it on its way out? What still comes is served."""
        return self._draining

    @property
    def catalogue(self) -> Catalogue:
        """The models. Raises Loading before they are there."""
        if not self._started:
            raise Loading("this worker is still loading its models")
        return self._catalogue

    @property
    def models(self) -> Catalogue:
        """The models, also while they are being loaded; for those who only look."""
        return self._catalogue

    def check_ready(self) -> None:
        """Raises Draining or Loading if new requests had better go to another worker."""
        if self._draining:
            raise Draining("this worker is draining")
        if not self.catalogue.names:
            raise Loading("this worker has no model to serve at the moment")

    def started(self) -> None:
        """The models that were wanted from the beginning are there."""
        self._started = True
        self._changed()

    def _describe(self) -> None:
        self.worker = self.worker.serving(self._catalogue.available)

    def drain(self) -> None:
        """No new requests, please."""
        self._draining = True
        self._changed()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `check_ready` may have another answer."""
        self._on_change.append(callback)
        self._catalogue.on_change(callback)

    def _changed(self) -> None:
        for callback in self._on_change:
            callback()

    def request(self) -> AbstractContextManager[None, None]:
        """A request is being worked on for as long as the block lasts."""
        return self._work

    async def idle(self) -> None:
        """Return when no request is being worked on."""
        await self._work.idle.wait()


class _Work:
    """The requests that are being worked on: one for each `with` block that is open."""

    __slots__ = ("_requests", "idle")

    def __init__(self) -> None:
        self._requests = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def __enter__(self) -> None:
        self._requests += 1
        self.idle.clear()

    def __exit__(self, *_: object) -> None:
        self._requests -= 1
        if not self._requests:
            self.idle.set()
