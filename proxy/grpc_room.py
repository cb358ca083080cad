"""How much of the proxy gRPC's clients may take: calls, memory for their messages, time to send a request.

HTTP has such bounds for connections. gRPC's library shows none of those, and hands over messages only when they are
complete; so calls count here as connections do there, and messages are counted when they are here. How much of one is
still on its way nobody tells: while requests take long to come, the memory of the whole process is looked at instead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

from muster.memory import in_use
from proxy.access import SLOW
from proxy.commons import Commons
from proxy.grpc_calls import Code, Refused
from proxy.grpc_quietly import grpc

LOOK: Final = 0.05
"""Seconds between two looks at the memory while requests are on their way."""
COPIES: Final = 2
"""Times that a message is in memory while it is passed on: here, and in gRPC's buffers."""


def largest_message(total: int) -> int:
    """Bytes of the largest message that one client may leave here if all may together have `total`."""
    return total // 4


class Room:
    """What all clients have together. A client is an address, as for HTTP."""

    def __init__(self, commons: Commons) -> None:
        settings = commons.settings
        self.patience = settings.body_timeout
        self._commons = commons
        self._loop = commons.loop
        self._most, self._most_each = settings.max_connections, settings.max_connections_per_peer
        self._total = settings.replay_total
        self._calls: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._coming: dict[asyncio.Timeout, str] = {}  # requests on their way, the oldest first, and whose they are
        self._slow: set[asyncio.Timeout] = set()  # those that were already on their way at the last look
        self._looking = False
        self._before = 0  # bytes in use when there were none of these

    def enter(self, address: str, context: Any) -> Visit:
        """One more call, until gRPC is through with it. Raises Refused."""
        if self._calls[address] >= self._most_each:
            raise self.refused("peer", Code.RESOURCE_EXHAUSTED, "too many calls from your address; try again later")
        if self._commons.grpc_calls >= self._most:
            raise self.refused("all", Code.UNAVAILABLE, "too many calls; try again later")
        self._commons.grpc_calls += 1
        self._calls[address] += 1
        visit = Visit(self, address)
        context.add_done_callback(visit.leave)  # with its answer it is not over: the client may not take it
        return visit

    def leave(self, address: str) -> None:
        """That call is over."""
        self._commons.grpc_calls -= 1
        self._calls[address] -= 1
        if not self._calls[address]:
            del self._calls[address], self._held[address]

    def hold(self, address: str, size: int) -> None:
        """So many bytes more are here, or less. Raises Refused.

        A client may hold as much as is left for the others then: however many are greedy, there is room for one more.
        """
        held = self._held[address] + size
        if size > 0 and held > self._total - self._commons.grpc_bytes - size:
            raise self.refused("memory", Code.RESOURCE_EXHAUSTED, "too many large messages at once; try again later")
        self._held[address] = held
        self._commons.grpc_bytes += size

    def coming(self, address: str, timeout: asyncio.Timeout) -> None:
        """A request is waited for, within `timeout`, which `_look` may shorten."""
        self._coming[timeout] = address
        if not self._looking:
            self._looking = True
            self._loop.call_later(LOOK, self._look)

    def came(self, timeout: asyncio.Timeout) -> None:
        """It is here, or will not come."""
        self._coming.pop(timeout, None)

    def refused(self, limit: str, code: Any, sentence: str) -> Refused:
        """The error, counted."""
        self._commons.stats.grpc_refused[limit] += 1
        return Refused(code, sentence)

    def late(self, timeout: asyncio.Timeout) -> Refused:
        """Why a request that was waited for is waited for no more."""
        if timeout not in self._coming:
            return self.refused("memory", Code.RESOURCE_EXHAUSTED, "too many large messages at once; try again later")
        sentence = f"the request did not arrive within {self.patience:g} seconds"
        return Refused(Code.DEADLINE_EXCEEDED, sentence, end=SLOW)

    def _look(self) -> None:
        """Are requests on their way that take more memory than they may? Then some of them are refused."""
        coming, used = self._coming, in_use()
        self._looking = bool(coming)
        if not coming:
            self._slow = set()
            return
        self._loop.call_later(LOOK, self._look)
        if not self._slow:
            self._before = used
        elif used - self._before > self._total + COPIES * self._commons.grpc_bytes + self._commons.replay.used:
            self._shed()
        self._slow = set(coming)

    def _shed(self) -> None:
        """Refuse a part of what is on its way: the newest of who sends most."""
        slow = [
            (timeout, address)
            for timeout, address in self._coming.items()
            if timeout in self._slow and not timeout.expired()  # whose time is up has only not heard of it yet
        ]
        ((greedy, count),) = Counter(address for _, address in slow).most_common(1) or (("", 0),)
        for timeout in [timeout for timeout, address in slow if address == greedy][-(count // 2 + 1) :]:
            del self._coming[timeout]
            timeout.reschedule(self._loop.time())


class Visit:
    """One call's part of it."""

    __slots__ = ("_address", "_held", "_over", "_room")

    # It knows nothing of the call itself, which knows it: the two would stay until the garbage is collected, and gRPC
    # turns away calls for every one that stays.
    def __init__(self, room: Room, address: str) -> None:
        self._room = room
        self._address = address
        self._held = 0
        self._over = False

    def hold(self, size: int) -> None:
        """Its messages take so many bytes more, or less. Raises Refused."""
        if not self._over:
            self._room.hold(self._address, size)
            self._held += size

    def leave(self, _: Any) -> None:
        """gRPC is through with it."""
        self.hold(-self._held)
        self._over = True
        self._room.leave(self._address)

    async def request(self, context: Any) -> bytes | None:
        """The first message, in time; None if there is none. Raises Refused."""
        room, timeout = self._room, asyncio.timeout(self._room.patience)
        room.coming(self._address, timeout)
        try:
            async with timeout:
                message = await context.read()
        except TimeoutError:
            raise room.late(timeout) from None
        finally:
            room.came(timeout)
        return self._received(message)

    async def message(self, context: Any) -> bytes | None:
        """A further one, whenever it comes; None if there is none. Raises Refused."""
        return self._received(await context.read())

    def _received(self, message: Any) -> bytes | None:
        if message is grpc.aio.EOF:
            return None
        self.hold(len(message))
        kept: bytes = message
        return kept
