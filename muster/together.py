"""What is worth making once for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """`make`, once for all who ask in the same turn of the event loop.

    It begins in the next turn, so nobody gets what is older than his question; who asks once it has begun waits for
    another. So those who ask in masses cost a turn no more than one who asks alone.
    """

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._next: asyncio.Task[T] | None = None  # it has not begun

    async def get(self) -> T:
        """What was made after this was called."""
        if self._next is None:
            self._next = asyncio.create_task(self._begin())
        return await asyncio.shield(self._next)  # who leaves does not take it away from the others

    async def _begin(self) -> T:
        self._next = None
        return await self._make()
