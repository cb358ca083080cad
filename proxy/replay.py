"""Copies of requests' bodies, kept so that a request can be sent again; bounded each, and all together."""

from __future__ import annotations

from muster.framing import Buffer


class Budget:
    """How much may be kept, in bytes: `each` body, and `total` for all of them. `used` is what is kept now."""

    __slots__ = ("each", "total", "used")

    def __init__(self, each: int, total: int) -> None:
        self.each = each
        self.total = total
        self.used = 0


class Copy:
    """What has come so far of one body, in the pieces that it came in, until it is forgotten."""

    __slots__ = ("_budget", "pieces", "size", "whole")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.pieces: list[Buffer] = []
        self.size = 0
        self.whole = True

    def keep(self, data: Buffer) -> None:
        """Add a piece; nothing, once the copy is not whole any more."""
        if self.whole:
            self.pieces.append(data)
            self.size += len(data)
            self._budget.used += len(data)

    @property
    def too_large(self) -> bool:
        """Is it more than may be kept?"""
        return self.size > self._budget.each or self._budget.used > self._budget.total

    def forget(self) -> None:
        """Give the memory back. What is gone cannot be sent again."""
        self._budget.used -= self.size
        self.pieces = []
        self.size = 0
        self.whole = False
