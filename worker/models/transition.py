"""What to do next to bring one model's versions from how they are to how they are wanted. Pure.

One step at a time. *Availability-preserving*, as TensorFlow Serving does it: a new version is loaded beside the old
one, which leaves only when the new one serves; if that never happens, the old one stays. *Resource-preserving*: the old
one leaves first, so there is never memory needed for two, and for a while nobody answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar


class Transition(Enum):
    """What a change of versions preserves."""

    AVAILABILITY = "availability"
    RESOURCE = "resource"


class Phase(Enum):
    """How far a version is on its way through this worker."""

    NEW = "new"
    LOADING = "loading"
    RESTING = "resting"
    """It failed, and will be new again in a while."""
    FAILED = "failed"
    """It failed for good, or until its files change."""
    AVAILABLE = "available"
    LEAVING = "leaving"


class Standing(Protocol):
    """How one version stands."""

    @property
    def number(self) -> int:
        """The version."""

    @property
    def wanted(self) -> bool:
        """Is it to be served?"""

    @property
    def phase(self) -> Phase:
        """How far it is."""


S = TypeVar("S", bound=Standing)


@dataclass(frozen=True, slots=True)
class Load(Generic[S]):
    """Load this version."""

    version: S


@dataclass(frozen=True, slots=True)
class Unload(Generic[S]):
    """Unload this version."""

    version: S


def next_step(transition: Transition, versions: Sequence[S]) -> Load[S] | Unload[S] | None:
    """The next step for one model, or None if there is none at the moment."""
    surplus = [one for one in versions if one.phase is Phase.AVAILABLE and not one.wanted]
    if surplus and (transition is Transition.RESOURCE or _may_leave(versions, len(surplus))):
        return Unload(min(surplus, key=_number))
    busy = {Phase.LOADING, Phase.LEAVING} if transition is Transition.RESOURCE else {Phase.LOADING}
    loadable = [one for one in versions if one.phase is Phase.NEW and one.wanted]
    if not loadable or any(one.phase in busy for one in versions):
        return None
    return Load(max(loadable, key=_number))


def _may_leave(versions: Sequence[Standing], surplus: int) -> bool:
    wanted = [one for one in versions if one.wanted]
    return not wanted or surplus > 1 or any(one.phase is Phase.AVAILABLE for one in wanted)


def _number(version: Standing) -> int:
    return version.number
