"""Counters and histograms as plain numbers: cheap to keep while requests are served, written out when somebody asks.

They belong to the event loop, so nothing here needs a lock. Each figure is a number for every combination of its
labels' values that occurred; whoever records takes care that there are not too many of those.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TypeAlias

Values: TypeAlias = tuple[str, ...]
"""The values of a figure's labels, in their order."""


class Tally:
    """Something that is counted, or a sum that only grows."""

    __slots__ = ("cells", "labels", "name")

    def __init__(self, name: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.labels = tuple(labels)
        self.cells: dict[Values, float] = {}

    def __repr__(self) -> str:
        return f"<Tally {self.name}: {len(self.cells)} cells>"

    def add(self, values: Values = (), amount: float = 1) -> None:
        """`amount` more."""
        self.cells[values] = self.cells.get(values, 0) + amount

    def forget(self, gone: Callable[[Values], bool]) -> None:
        """Drop the cells whose values are `gone`."""
        for values in [values for values in self.cells if gone(values)]:
            del self.cells[values]


class _Cell:
    __slots__ = ("counts", "sum")

    def __init__(self, limits: int) -> None:
        self.counts = [0] * (limits + 1)
        self.sum = 0.0


class Spread:
    """A histogram: how many values were no more than each of `limits`, and how many were more than all of them."""

    __slots__ = ("_cells", "labels", "limits", "name")

    def __init__(self, name: str, labels: Sequence[str], limits: Sequence[float]) -> None:
        self.name = name
        self.labels = tuple(labels)
        self.limits = tuple(limits)
        self._cells: dict[Values, _Cell] = {}

    def __repr__(self) -> str:
        return f"<Spread {self.name}: {len(self._cells)} cells>"

    def observe(self, values: Values, value: float) -> None:
        """One value more."""
        cell = self._cells.get(values)
        if cell is None:
            cell = self._cells[values] = _Cell(len(self.limits))
        cell.counts[bisect_left(self.limits, value)] += 1
        cell.sum += value

    def forget(self, gone: Callable[[Values], bool]) -> None:
        """Drop the cells whose values are `gone`."""
        for values in [values for values in self._cells if gone(values)]:
            del self._cells[values]

    def cells(self) -> Iterator[tuple[Values, list[int], float]]:
        """For each combination of values: how many were no more than each limit (the last is all), and the sum."""
        for values, cell in self._cells.items():
            yield values, list(accumulate(cell.counts)), cell.sum


def growing(first: float, factor: float, count: int) -> tuple[float, ...]:
    """`count` limits, each `factor` times the one before it."""
    return tuple(first * factor**power for power in range(count))
