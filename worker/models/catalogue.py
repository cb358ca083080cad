"""Which versions of which models there are, in which state, and who uses them: every request looks its model up here.

`worker.models.manager` moves versions from state to state; the doors `use` those that are available. A version that is
retired is not found any more, and its memory is given back when the last request that uses it is done. Everything
happens in the event loop, so each change is whole before anybody can look. Knows no files and no TensorFlow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum

from muster.errors import UnknownModel
from worker.models.servable import Servable
from worker.status import Code, StatusError


class Stage(Enum):
    """Where a version is in its life; names and numbers are those of `tensorflow.serving.ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version's state; `code` and `message` say why it ended, if it did so for a bad reason."""

    version: int
    stage: Stage
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of an attempt to load what is at `path`: nothing, if there is no servable."""

    name: str
    path: str
    seconds: float
    servable: Servable | None


class _Place:
    """An available servable, and how many requests use it: each for as long as its `with` block lasts."""

    __slots__ = ("idle", "servable", "users")

    def __init__(self, servable: Servable) -> None:
        self.servable = servable
        self.users = 0
        self.idle: asyncio.Event | None = None  # set when a retired one is used no more

    def __enter__(self) -> Servable:
        self.users += 1
        return self.servable

    def __exit__(self, *_: object) -> None:
        self.users -= 1
        if self.idle is not None and not self.users:
            self.idle.set()


class Catalogue:
    """The models of this worker by name, version and label."""

    def __init__(self, servables: Sequence[Servable] = ()) -> None:
        self._available: dict[str, dict[int, _Place]] = {}
        self._statuses: dict[str, dict[int, VersionStatus]] = {}
        self._replaced: list[_Place] = []  # found no more, and not retired yet
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._on_change: list[Callable[[], None]] = []
        self._on_attempt: list[Callable[[Attempt], None]] = []
        for servable in servables:
            self.publish(servable)

    def __repr__(self) -> str:
        return f"<Catalogue: {self.available}>"

    # What the doors ask

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models of which some version is available, in alphabetical order."""
        return tuple(sorted(self._available))

    @property
    def available(self) -> dict[str, tuple[int, ...]]:
        """The available versions of each model, both in rising order."""
        return {name: tuple(sorted(self._available[name])) for name in self.names}

    @property
    def servables(self) -> tuple[Servable, ...]:
        """Every available version of every model."""
        return tuple(place.servable for versions in self._available.values() for place in versions.values())

    def use(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> AbstractContextManager[Servable, None]:
        """The model of that name: that version, the one with that label, or the highest; kept until the block ends.

        Raises UnknownModel if no such version is available, StatusError (INVALID_ARGUMENT) for an unknown label.
        """
        return self._find(name, version, label)

    def labelled(self, name: str, label: str) -> int | None:
        """The version that the label names, available or not."""
        return self._labels.get(name, {}).get(label)

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of the model that was ever heard of, the newest first; empty for an unknown model."""
        return [status for _, status in sorted(self._statuses.get(name, {}).items(), reverse=True)]

    @property
    def all_statuses(self) -> dict[str, list[VersionStatus]]:
        """`statuses` of every model that was ever heard of."""
        return {name: self.statuses(name) for name in sorted(self._statuses)}

    # What the manager tells

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every change of `available`."""
        self._on_change.append(callback)

    def on_attempt(self, callback: Callable[[Attempt], None]) -> None:
        """Call `callback` after each attempt to load a version."""
        self._on_attempt.append(callback)

    def attempted(self, attempt: Attempt) -> None:
        """It was tried to load a version."""
        for callback in self._on_attempt:
            callback(attempt)

    def note(self, name: str, status: VersionStatus) -> None:
        """A version is in this state now. One that is available says so itself, and stays so until it is retired."""
        if status.version not in self._available.get(name, {}):
            self._statuses.setdefault(name, {})[status.version] = status

    def publish(self, servable: Servable) -> None:
        """`servable` is available from now on; one of the same name and version that is there gives way to it."""
        name, version = servable.name, servable.version
        replaced = self._available.get(name, {}).get(version)
        if replaced is not None:
            self._replaced.append(replaced)
        self._statuses.setdefault(name, {})[version] = VersionStatus(version, Stage.AVAILABLE)
        self._available.setdefault(name, {})[version] = _Place(servable)
        self._changed()

    async def retire(self, servable: Servable) -> None:
        """Let nobody find what was published any more, and wait until nobody uses it."""
        name, version = servable.name, servable.version
        places = self._available.get(name, {})
        if version in places and places[version].servable is servable:
            place = places.pop(version)
            if not places:
                del self._available[name]
            self.note(name, VersionStatus(version, Stage.UNLOADING))
            self._changed()
        else:
            place = next(place for place in self._replaced if place.servable is servable)
            self._replaced.remove(place)
        if place.users:
            place.idle = asyncio.Event()
            await place.idle.wait()

    def label(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replace all labels: for each model, the version that each label names."""
        self._labels = {name: dict(versions) for name, versions in labels.items()}

    def _changed(self) -> None:
        for callback in self._on_change:
            callback()

    def _find(self, name: str, version: int | None, label: str | None) -> _Place:
        if label is not None:
            version = self.labelled(name, label)
            if version is None:
                raise StatusError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        places = self._available.get(name, {})
        place = places.get(max(places, default=-1) if version is None else version)
        if place is None:
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise UnknownModel(f"Servable not found for request: {asked}", models=list(self.names))
        return place
