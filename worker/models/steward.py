"""The steward of one model: takes its versions from phase to phase, one load at a time.

What happens to a version is decided in `transition`, and happens here: loading in a thread, trying again, publishing,
waiting for the last request before closing. A version that cannot be loaded is noted as such, whatever it raised; the
rest of the worker never hears of it otherwise. Everything but the loads themselves happens in the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from worker.models.catalogue import Attempt, Catalogue, Stage, VersionStatus
from worker.models.finding import Found
from worker.models.servable import ModelProblem, Servable
from worker.models.settling import Fingerprint
from worker.models.source import Finished
from worker.models.transition import Load, Phase, Transition, next_step
from worker.models.workshop import FilesChanged, Workshop
from worker.status import Code, StatusError

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Version:
    """One version, and how it stands."""

    finished: Finished
    wanted: bool = True
    phase: Phase = Phase.NEW
    tries: int = 0
    tried: Fingerprint | None = None
    """What its files were like when it was last tried."""
    problem: Exception | None = None
    servable: Servable | None = None
    again: asyncio.TimerHandle | None = None

    @property
    def number(self) -> int:
        return self.finished.found.version

    def renew(self) -> None:
        """It may be loaded, as if it had just come."""
        self.rest_no_longer()
        self.phase, self.tries, self.problem, self.servable = Phase.NEW, 0, None, None

    def rest_no_longer(self) -> None:
        if self.again is not None:
            self.again.cancel()
            self.again = None


class Steward:
    """Keeps one model's versions as they are wanted."""

    def __init__(self, name: str, catalogue: Catalogue, workshop: Workshop, transition: Transition) -> None:
        self.name = name
        self._catalogue = catalogue
        self._workshop = workshop
        self._transition = transition
        self._versions: list[_Version] = []

    @property
    def idle(self) -> bool:
        """Has it nothing, and nothing to do?"""
        return not self._versions

    @property
    def loaded(self) -> list[Found]:
        """What is loaded, wanted or not."""
        return [one.finished.found for one in self._versions if one.servable is not None]

    @property
    def available(self) -> bool:
        """Is some wanted version served?"""
        return any(one.phase is Phase.AVAILABLE for one in self._versions if one.wanted)

    @property
    def failed(self) -> tuple[int, Exception] | None:
        """A wanted version that failed for good, and why."""
        failed = (one for one in self._versions if one.wanted and one.phase is Phase.FAILED)
        return next(((one.number, one.problem) for one in failed if one.problem is not None), None)

    def want(self, wanted: Collection[Finished]) -> None:
        """From now on these versions are wanted, and no others."""
        now = {finished.found: finished for finished in wanted}
        for version in list(self._versions):
            finished = now.pop(version.finished.found, None)
            version.wanted = finished is not None
            if finished is not None:
                self._meet(version, finished)
            elif version.phase in (Phase.NEW, Phase.RESTING, Phase.FAILED):
                self._drop(version)
        for finished in now.values():
            self._versions.append(_Version(finished))
            self._note(self._versions[-1], Stage.START)

    def next_step(self) -> Coroutine[Any, Any, None] | None:
        """The next thing to do, begun by calling this: the coroutine finishes it. It raises nothing."""
        step = next_step(self._transition, self._versions)
        if step is None:
            return None
        version = step.version
        if isinstance(step, Load):
            version.phase = Phase.LOADING
            return self._load(version)
        version.phase = Phase.LEAVING
        return self._unload(version)

    def _meet(self, version: _Version, finished: Finished) -> None:
        """A version was seen again. One that failed is tried again when its files are not what they were."""
        version.finished = finished
        if version.phase in (Phase.RESTING, Phase.FAILED) and version.tried != finished.files:
            version.renew()
            self._note(version, Stage.START)

    def _drop(self, version: _Version) -> None:
        """A version that is not loaded is wanted no more."""
        version.rest_no_longer()
        self._versions.remove(version)
        if version.phase is not Phase.FAILED:  # why it failed stays to be read
            self._note(version, Stage.END)

    async def _load(self, version: _Version) -> None:
        version.tried = version.finished.files
        found, began = version.finished.found, time.monotonic()
        try:
            async with self._workshop.turn_to_load():
                self._note(version, Stage.LOADING)
                began = time.monotonic()
                servable = await self._workshop.load(found)
        except FilesChanged as error:
            version.tried = error.before
            self._rest(version, self._workshop.settle_time)
        except Exception as error:  # noqa: BLE001  # whatever a model makes TensorFlow raise is that version's end
            self._catalogue.attempted(Attempt(self.name, str(found.path), time.monotonic() - began, None))
            self._failed(version, error)
        else:
            self._catalogue.attempted(Attempt(self.name, str(found.path), time.monotonic() - began, servable))
            await self._loaded(version, servable)
        self._workshop.wake()

    async def _loaded(self, version: _Version, servable: Servable) -> None:
        if not version.wanted:  # it went while it was loaded
            await self._workshop.close(servable)
            self._left(version)
            return
        version.phase, version.servable, version.problem = Phase.AVAILABLE, servable, None
        self._catalogue.publish(servable)
        log.info("version %d of the model %r is available", version.number, self.name)

    def _failed(self, version: _Version, error: Exception) -> None:
        version.tries += 1
        version.problem = error
        if not version.wanted:
            self._drop(version)
            return
        known = isinstance(error, (ModelProblem, StatusError))
        what = f"version {version.number} of the model {self.name!r} cannot be loaded: {error}"
        if version.tries <= self._workshop.retries:
            log.warning("%s; it is tried again in %g s", what, self._workshop.retry_pause, exc_info=not known)
            self._rest(version, self._workshop.retry_pause)
            return
        log.error("%s", what, exc_info=None if known else error)
        version.phase = Phase.FAILED
        self._note(version, Stage.END, code_of_problem(error), str(error))

    def _rest(self, version: _Version, seconds: float) -> None:
        """Load it again later, unless it is unwanted by then."""
        if not version.wanted:
            self._drop(version)
            return

        def again() -> None:
            version.again, version.phase = None, Phase.NEW
            self._workshop.wake()

        version.phase = Phase.RESTING
        version.again = asyncio.get_running_loop().call_later(seconds, again)

    async def _unload(self, version: _Version) -> None:
        assert version.servable is not None, "only what is available is unloaded"  # noqa: S101
        await self._catalogue.retire(version.servable)
        await self._workshop.close(version.servable)
        log.info("version %d of the model %r is unloaded", version.number, self.name)
        self._left(version)
        self._workshop.wake()

    def _left(self, version: _Version) -> None:
        """It is not loaded any more."""
        self._note(version, Stage.END)
        version.renew()
        if version.wanted:  # it came back meanwhile
            self._note(version, Stage.START)
        else:
            self._versions.remove(version)

    def _note(self, version: _Version, stage: Stage, code: Code = Code.OK, message: str = "") -> None:
        self._catalogue.note(self.name, VersionStatus(version.number, stage, code, message))


def code_of_problem(error: Exception) -> Code:
    """The canonical code of why a version could not be loaded."""
    return error.canonical if isinstance(error, StatusError) else Code.UNKNOWN
