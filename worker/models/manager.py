"""The manager: makes what is loaded what is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from muster.lifetime import Stop
from worker.models.catalogue import Catalogue
from worker.models.finding import Found, find
from worker.models.options import load_options
from worker.models.servable import Servable
from worker.settings import WorkerSettings


class Manager:
    """Loads and unloads."""

    def __init__(self, settings: WorkerSettings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._catalogue = catalogue

    async def ready(self) -> None:
        """Return when some version of every model is available. Raises ModelProblem if that will never be."""
        settings = self._settings
        found = find(settings.path)
        for model in found:
            self._catalogue.publish(await asyncio.to_thread(self._load, model))

    def _load(self, model: Found) -> Servable:
        from worker.models.loading import load

        return load(model, load_options(self._settings))


@asynccontextmanager
async def managing(
    settings: WorkerSettings, catalogue: Catalogue, unloading: Callable[[Servable], Awaitable[None]], stop: Stop
) -> AsyncIterator[Manager]:
    """Keep `catalogue` as the settings want it while the block lasts.

    `unloading` is awaited with each servable that nobody asks for any more, before it is closed: a call whose caller has
    gone may still be under way in a thread.
    """
    yield Manager(settings, catalogue)
