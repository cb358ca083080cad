"""The source: which versions of which models are on disk, finished, and wanted. It blocks; the manager asks it often.

A model whose directory cannot be read keeps what it has, and no other model notices. While a version is being copied,
the others are all there is; but one that is merely young will have settled in a moment, and until then nothing changes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from worker.models.config import ModelConfig, Models
from worker.models.finding import Found, NoModel, find_all, version_number
from worker.models.policy import Latest, Policy, Specific, wanted
from worker.models.servable import ModelProblem
from worker.models.settling import Fingerprint, Settling

log = logging.getLogger(__name__)

REMEMBERED: Final = 1000
"""So many things that were said are not said again."""
Place: TypeAlias = tuple[Policy, Mapping[int, Found] | None]
"""Which versions of a model are wanted, and which are there; None where nobody can tell."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A version whose files have settled, and what they were like then."""

    found: Found
    files: Fingerprint


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look showed."""

    models: Mapping[str, Collection[Finished]]
    """The wanted versions of every model of which that is known."""
    unsettled: frozenset[str]
    """The models of which some version has not settled: look again soon."""


class Places(Protocol):
    """Where models are looked for."""

    def look(self) -> Mapping[str, Place]:
        """All models, by name."""


class OnePath:
    """Whatever is at one path, each model in its highest version. The first look raises ModelProblem if that is
    nothing; later ones cannot fail, and a path that is empty by then has no models.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Mapping[str, Place] | None = None
        self._problem = ""
        self._left_out: set[str] = set()

    def look(self) -> Mapping[str, Place]:
        """See Places."""
        try:
            there = find_all(self._path, self._leave_out)
        except NoModel:
            if self._known is None:
                raise
            there = {}
        except (ModelProblem, OSError) as error:
            if self._known is None:
                raise
            if str(error) != self._problem:
                log.warning("what is served stays as it is: %s", error)
            self._problem = str(error)
            return dict.fromkeys(self._known, (Latest(), None))
        self._problem = ""
        gone: dict[str, Place] = {name: (Latest(), {}) for name in self._known or {}}
        self._known = {name: (Latest(), versions) for name, versions in there.items()}
        return gone | dict(self._known)

    def _leave_out(self, problem: str) -> None:
        """Say once what is wrong with a model that cannot be served, while the others are."""
        if problem not in self._left_out:
            if len(self._left_out) == REMEMBERED:
                self._left_out.clear()
            self._left_out.add(problem)
            log.warning("a model is left out: %s", problem)


class Configured:
    """The base paths of configured models; a version is every directory whose name is a number."""

    def __init__(self) -> None:
        self.models: Models = {}
        self._problems: dict[str, str] = {}

    def look(self) -> Mapping[str, Place]:
        """See Places."""
        models = dict(self.models)
        return {name: (model.policy, self._versions(model)) for name, model in models.items()}

    def _versions(self, model: ModelConfig) -> Mapping[int, Found] | None:
        versions: dict[int, Found] = {}
        problem = ""
        try:
            for child in sorted(model.directory.iterdir()):
                version = version_number(child.name)
                if version is not None and child.is_dir():
                    if version in versions:
                        other = versions[version].path.name
                        problem = f"has version {version} twice: {child.name} is taken, {other} is not"
                    versions[version] = Found(model.name, version, child)
        except OSError as error:
            self._complain(model, f"cannot be read: {error.strerror}")
            return None
        if not versions:
            problem = "has no version: no directory in it has a number as its name"
        if problem:
            self._complain(model, problem)
        else:
            self._problems.pop(model.name, None)
        return versions

    def _complain(self, model: ModelConfig, problem: str) -> None:
        """Say what is wrong with a model's base path, once; and again when it had been well in between."""
        if self._problems.get(model.name) != problem:
            log.warning("%s of the model %r %s", model.base_path, model.name, problem)
        self._problems[model.name] = problem


class Source:
    """Looks at places, and remembers what it saw there. For one thread at a time."""

    def __init__(self, places: Places, settling: Settling) -> None:
        self._places = places
        self._settling = settling
        self._finished: dict[Found, Finished] = {}
        self._told: set[str] = set()

    def look(self, loaded: Collection[Found]) -> Sighting:
        """What is there now. `loaded` is what need not be looked at closely, for its files are read already.

        Raises ModelProblem or OSError if nothing can be served.
        """
        models: dict[str, Collection[Finished]] = {}
        unsettled: set[str] = set()
        there: set[Found] = set()
        for name, (policy, versions) in self._places.look().items():
            if versions is None:
                continue
            there.update(versions.values())
            if isinstance(policy, Specific) and (missing := sorted(policy.versions - versions.keys())):
                self._tell(f"the model {name!r} has no version {', '.join(map(str, missing))}, which is asked for")
            young, finished = self._choose(policy, dict(versions), loaded)
            if young:
                unsettled.add(name)
            moving = [one for one in young if self._settling.moving(one.path)]
            for one in moving:
                self._tell(f"{one.path} is being written: it is loaded when that has come to rest")
            if len(moving) == len(young):
                models[name] = finished
        self._finished = {found: finished for found, finished in self._finished.items() if found in there}
        self._settling.forget({found.path for found in there})
        return Sighting(models, frozenset(unsettled))

    def _tell(self, sentence: str) -> None:
        """What an operator may want to know, once."""
        if sentence not in self._told:
            if len(self._told) == REMEMBERED:
                self._told.clear()
            self._told.add(sentence)
            log.warning("%s", sentence)

    def _choose(
        self, policy: Policy, versions: dict[int, Found], loaded: Collection[Found]
    ) -> tuple[list[Found], list[Finished]]:
        """The versions that would be wanted if they had settled, and those that are wanted while they have not."""
        young: list[Found] = []
        while True:
            chosen = [versions[version] for version in sorted(wanted(policy, versions))]
            waits = [one for one in chosen if not self._is_finished(one, loaded)]
            if not waits:
                return young, [self._finished[one] for one in chosen]
            young += waits
            for one in waits:
                del versions[one.version]

    def _is_finished(self, found: Found, loaded: Collection[Found]) -> bool:
        """Once finished it stays so: if its files change, it is seen as changed when they have settled again."""
        if found in loaded and found in self._finished:
            return True
        files = self._settling.settled(found.path)
        if files is not None:
            self._finished[found] = Finished(found, files)
        return found in self._finished
