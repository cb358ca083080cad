"""Where models are loaded and closed: threads, turns, and what one has to know to do it well.

Loading takes seconds of computing, so it happens in threads of its own, as many at once as the settings allow; before
the worker serves, nobody is there to be disturbed, and every core may load.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Lock
from typing import TypeAlias, TypeVar

from worker.memory import give_back, set_aside
from worker.models.courtesy import small_bites, step_back
from worker.models.finding import Found
from worker.models.options import load_options
from worker.models.servable import Servable
from worker.models.settling import Fingerprint, fingerprint
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)
T = TypeVar("T")
Loader: TypeAlias = Callable[[Found, Callable[[], None]], Servable]
"""Loads a model; it blocks, and calls its second argument when all that remains is computing."""
_CORES = os.cpu_count() or 1


class FilesChanged(Exception):
    """A version's files changed while they were read, so what was read may be half of one and half of another."""

    def __init__(self, found: Found, before: Fingerprint) -> None:
        super().__init__(f"the files in {found.path} changed while they were loaded")
        self.before = before


class Workshop:
    """Loads and closes servables, each in its turn."""

    def __init__(
        self,
        settings: WorkerSettings,
        load: Loader,
        unloading: Callable[[Servable], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        self.wake = wake
        """To be called when something has come to its end."""
        self.retries = settings.max_num_load_retries if settings.drop_in else 0
        self.retry_pause = max(settings.load_retry_interval_micros, 0) / 1e6
        self.settle_time = settings.settle_time
        self._load = load
        self._unloading = unloading
        self._first_loads = asyncio.Semaphore(_CORES)
        self._loads = asyncio.Semaphore(max(settings.num_load_threads, 1))
        self._closers = ThreadPoolExecutor(max(settings.num_unload_threads, 1), "closer")
        self._serving = False

    def serving(self) -> None:
        """From now on requests are served, and loading is kept within the limit."""
        self._serving = True

    def turn_to_load(self) -> asyncio.Semaphore:
        """Load within an `async with` of this."""
        return self._loads if self._serving else self._first_loads

    async def load(self, found: Found) -> Servable:
        """Load it in a thread. Raises FilesChanged, and whatever is wrong with the model."""
        thread = ThreadPoolExecutor(1, "loader")  # of its own, for it may step back for good
        try:
            return await _in(thread, lambda: self._load_whole(found))
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    async def close(self, servable: Servable) -> None:
        """Close it in a thread, when nothing computes with it any more."""
        try:
            await self._unloading(servable)
            await _in(self._closers, servable.close)
        except Exception:  # it is gone for everybody else; an operator may want to know
            log.exception("%r could not be closed", servable)
        await _in(self._closers, give_back)

    def end(self) -> None:
        """Close nothing more. What is under way is not waited for."""
        self._closers.shutdown(wait=False, cancel_futures=True)

    def _load_whole(self, found: Found) -> Servable:
        before = fingerprint(found.path)
        try:
            with small_bites() if self._serving else nullcontext():
                servable = self._load(found, step_back if self._serving else _nothing)
        except Exception as error:
            if fingerprint(found.path) != before:
                raise FilesChanged(found, before) from error
            raise
        if fingerprint(found.path) != before:
            servable.close()
            raise FilesChanged(found, before)
        return servable


def usual_loader(settings: WorkerSettings) -> Loader:
    """What loads every kind of model, with these settings."""
    options = load_options(settings)
    first = Lock()
    imported = False

    def load(found: Found, computing: Callable[[], None]) -> Servable:
        nonlocal imported
        with first:
            # TensorFlow is imported here: in a thread, and only when there is something to load.
            from worker.models import loading

            if not imported:
                set_aside()
                imported = True
        return loading.load(found, options, computing)

    return load


def _nothing() -> None:
    pass


async def _in(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, work)
