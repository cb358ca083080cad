"""Which of the versions that are there are wanted. Pure: from numbers to numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Latest:
    """The highest `count` versions; 0 counts as 1."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Every version."""


@dataclass(frozen=True, slots=True)
class Specific:
    """These versions, as far as they are there."""

    versions: frozenset[int]


Policy: TypeAlias = Latest | All | Specific


def wanted(policy: Policy, there: Collection[int]) -> frozenset[int]:
    """The versions to serve of those that are there."""
    match policy:
        case Latest(count):
            return frozenset(sorted(there)[-max(count, 1) :])
        case Specific(versions):
            return versions & frozenset(there)
        case All():
            return frozenset(there)
