"""The manager: makes what is loaded what is wanted, for as long as the worker lives.

What is wanted comes from the settings, a configuration file that is read again and again, or somebody who asks for a
reload; what is there, from the source. Both go to the stewards, one for each model, whose steps are taken here. What
TensorFlow Serving does, and does not: a missing directory holds up nobody but its own model, a changed base path is
followed even where the version's number stays, and nothing waits for ever but who asked for what is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

from muster.lifetime import Stop, supervised
from worker.models.catalogue import Catalogue
from worker.models.config import LIST, Models, check_labels, models_of, read_models
from worker.models.servable import ModelProblem, Servable
from worker.models.settling import Settling
from worker.models.source import Configured, Finished, OnePath, Sighting, Source
from worker.models.steward import Steward, code_of_problem
from worker.models.transition import Transition
from worker.models.workshop import Loader, Workshop, usual_loader
from worker.settings import WorkerSettings
from worker.status import Code, StatusError

log = logging.getLogger(__name__)
T = TypeVar("T")

SOON: Final = 0.1
"""Seconds after which files that have not settled are looked at again."""


class Manager:
    """Loads and unloads."""

    def __init__(
        self,
        settings: WorkerSettings,
        catalogue: Catalogue,
        load: Loader,
        unloading: Callable[[Servable], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._workshop = Workshop(settings, load, unloading, self._wake)
        self._places = Configured()
        self._source = Source(
            self._places if settings.drop_in else OnePath(settings.path), Settling(settings.settle_time)
        )
        self._looking = ThreadPoolExecutor(1, "source")
        self._stewards: dict[str, Steward] = {}
        self._models: Models = {}
        self._there: set[str] = set()  # the models of which some version was there when we last looked
        self._begun = asyncio.Event()
        self._look_now = asyncio.Event()
        self._moved = asyncio.Event()

    async def ready(self) -> None:
        """Return when some version of every model is available.

        Raises what is wrong with the configuration (BadConfig, OSError, StatusError) or with a model: ModelProblem as
        soon as one fails, or in a drop-in StatusError when every model serves or has failed for good.
        """
        if self._settings.drop_in:
            models = await self._in_thread(lambda: read_models(self._settings))
            self._configure(models)
            self._begun.set()
            await self._reach(models)
        else:
            self._apply(await self._look())
            self._begun.set()
            await self._reach_all()
        self._workshop.serving()

    async def reload(self, message: Any) -> None:
        """Serve the models that this ModelServerConfig lists, and no others; return when the new ones are available.

        Raises StatusError: if it cannot be (then nothing changed), or if a new model failed for good.
        """
        if not self._settings.drop_in:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                "This worker serves what lies at --model: start it with --model_config_file to configure its models",
            )
        if message.WhichOneof("config") != LIST:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported",
            )
        models = models_of(message.model_config_list.config, self._models)
        new = models.keys() - self._models.keys()
        self._configure(models)
        await self._reach(new)

    async def work(self) -> None:
        """Take every steward's steps, for ever."""
        async with asyncio.TaskGroup() as steps:
            while True:
                moved = self._moved
                for name, steward in list(self._stewards.items()):
                    while (step := steward.next_step()) is not None:
                        steps.create_task(step)
                    if steward.idle:
                        del self._stewards[name]
                await moved.wait()

    async def watch(self) -> None:
        """Look for what is there, for ever."""
        await self._begun.wait()
        period: float = self._settings.file_system_poll_wait_seconds
        while True:
            self._look_now.clear()
            pause = period if period > 0 else None
            if period >= 0 or not self._settings.drop_in:
                try:
                    sighting = await self._look()
                except (ModelProblem, OSError) as error:
                    log.warning("what is served stays as it is: %s", error)
                else:
                    # A configuration that came while we looked is looked after at once.
                    if not self._look_now.is_set():
                        self._apply(sighting)
                    if sighting.unsettled:
                        pause = min(SOON, pause or SOON)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look_now.wait()

    async def follow_file(self) -> None:
        """Read the configuration file again and again. One that cannot be had changes nothing."""
        await self._begun.wait()
        complaint = ""
        while True:
            await asyncio.sleep(self._settings.model_config_file_poll_wait_seconds)
            try:
                self._configure(await self._in_thread(lambda: read_models(self._settings, self._models)))
                complaint = ""
            except (ValueError, OSError, StatusError) as error:
                if str(error) != complaint:
                    log.error("the models stay as they are: %s", error)  # noqa: TRY400  # the sentence says all
                complaint = str(error)

    def end(self) -> None:
        """Begin nothing more."""
        self._looking.shutdown(wait=False, cancel_futures=True)
        self._workshop.end()

    def _configure(self, models: Models) -> None:
        """These models are wanted from now on, with these labels. Raises StatusError and changes nothing then."""
        settings = self._settings
        check_labels(
            models, self._models, self._catalogue.available, settings.allow_version_labels_for_unavailable_models
        )
        for name in self._models.keys() - models.keys():
            self._want(name, ())
        if models != self._models:
            log.info("models to serve: %s", ", ".join(sorted(models)) or "none")
        self._catalogue.label({name: model.labels for name, model in models.items()})
        self._places.models = self._models = models
        self._look_now.set()

    async def _look(self) -> Sighting:
        loaded = {found for steward in self._stewards.values() for found in steward.loaded}
        return await self._in_thread(lambda: self._source.look(loaded))

    def _apply(self, sighting: Sighting) -> None:
        for name, finished in sighting.models.items():
            self._want(name, finished)
        self._there -= sighting.models.keys()  # of what is not among them nobody can tell: it stays
        self._there |= sighting.unsettled | {name for name, finished in sighting.models.items() if finished}
        self._wake()

    def _want(self, name: str, finished: Collection[Finished]) -> None:
        steward = self._stewards.get(name)
        if steward is None:
            if not finished:
                return
            transition = Transition(self._settings.version_transition)
            steward = self._stewards[name] = Steward(name, self._catalogue, self._workshop, transition)
        steward.want(finished)
        self._wake()

    def _wake(self) -> None:
        """Something moved: whoever waits for that looks again."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def _reach_all(self) -> None:
        """Return when each model that is there is available; raise what is wrong as soon as it is with one.

        Meanwhile one may go, or get another name.
        """
        while True:
            moved = self._moved
            stewards = [self._stewards.get(name) for name in self._there]
            for failed in (steward.failed for steward in stewards if steward is not None):
                if failed is not None:
                    raise failed[1]
            if stewards and all(steward is not None and steward.available for steward in stewards):
                return
            await moved.wait()

    async def _reach(self, names: Collection[str]) -> None:
        """Return when each of these models is available or has failed for good. Raises StatusError if any has."""
        outcomes = [outcome for name in sorted(names) if (outcome := await self._outcome(name)) is not None]
        if outcomes:
            raise StatusError(
                Code.UNKNOWN,
                f"{len(outcomes)} servable(s) did not become available: {{{''.join(outcomes)}}}",
            )

    async def _outcome(self, name: str) -> str | None:
        """Why this model did not become available, when that is certain; None when it is."""
        while True:
            moved = self._moved
            if name not in self._models:
                return f"{{name: {name}}} due to error: CANCELLED: it is not in the configuration any more}}, "
            steward = self._stewards.get(name)
            if steward is not None and steward.available:
                return None
            if steward is not None and steward.failed is not None:
                version, error = steward.failed
                problem = f"{code_of_problem(error).name}: {error}"
                return f"{{name: {name} version: {version}}} due to error: {problem}}}, "
            await moved.wait()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._looking, work)


@asynccontextmanager
async def managing(
    settings: WorkerSettings,
    catalogue: Catalogue,
    unloading: Callable[[Servable], Awaitable[None]],
    stop: Stop,
    load: Loader | None = None,
) -> AsyncIterator[Manager]:
    """Keep `catalogue` as the settings want it while the block lasts.

    `unloading` is awaited with each servable that nobody asks for any more, before it is closed: a call whose caller
    has gone may still be under way in a thread. `load` is the loader, if not the usual one.
    """
    manager = Manager(settings, catalogue, load or usual_loader(settings), unloading)
    async with AsyncExitStack() as life:
        life.callback(manager.end)
        await life.enter_async_context(supervised("the manager", manager.work(), stop))
        await life.enter_async_context(supervised("the source", manager.watch(), stop))
        if settings.model_config_file and settings.model_config_file_poll_wait_seconds > 0:
            await life.enter_async_context(supervised("the configuration file", manager.follow_file(), stop))
        yield manager
