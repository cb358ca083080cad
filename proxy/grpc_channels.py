"""The gRPC connections to workers: one for each, made when it is first needed, closed when the worker has left.

gRPC would connect again by itself, and wait longer each time; but whether and when a worker is asked again is the
roster's to say. So a connection that does not come about is thrown away, and the next attempt makes a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from muster.errors import WorkerUnreachable
from muster.values import Worker
from proxy.grpc_quietly import grpc

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a new connection is a new one, and not another's that failed
    ("grpc.enable_http_proxy", 0),
)
LOOKS, LOOK = 5, 0.001
"""Looks at a connection that may have ended, and seconds between them."""
_State = grpc.ChannelConnectivity
Method = Callable[..., Any]
"""Takes the request, a timeout and metadata; the result is gRPC's call object."""


class Link:
    """The connection to one address, and the attempt to make it, which all who need it wait for."""

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        # Without the scheme a host by the name of "unix" would be a file.
        self._channel = grpc.aio.insecure_channel(f"dns:///{address}", options=_OPTIONS)
        self._timeout = timeout
        self._unary: dict[str, Method] = {}
        self._connecting: asyncio.Task[str | None] | None = None
        self._users = 0
        self._closing: asyncio.Task[None] | None = None
        self._retired = False

    def __repr__(self) -> str:
        return f"<Link to {self.address}: {self._users} users>"

    @property
    def ready(self) -> bool:
        """Is it there at this moment?"""
        return self._channel.get_state() is _State.READY

    async def lasts(self) -> bool:
        """Is it still there? To be asked when a call failed, for gRPC ends those a moment before it says so."""
        for _ in range(LOOKS):
            if not self.ready:
                return False
            await asyncio.sleep(LOOK)
        return True

    @property
    def open(self) -> bool:
        """Is it not closed for good?"""
        return self._closing is None or not self._closing.done()

    async def connect(self) -> None:
        """Return when it is there. Raises WorkerUnreachable."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        connecting = self._connecting
        await asyncio.wait([connecting])  # who waits may be cancelled: others wait for it, too
        left = connecting.cancelled() or self._retired  # it may be there, and yet be closed by now
        reason = "its worker has left" if left else connecting.result()
        if reason is not None:
            raise WorkerUnreachable(f"{self.address}: {reason}")

    def unary(self, method: str) -> Method:
        """That method, for one request and one answer, both bytes."""
        call = self._unary.get(method)
        if call is None:
            call = self._unary[method] = self._channel.unary_unary(method)
        return call

    def stream(self, method: str) -> Method:
        """That method, for any number of messages each way."""
        call: Method = self._channel.stream_stream(method)
        return call

    @contextmanager
    def used(self) -> Iterator[None]:
        """It stays open while the block lasts."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_if_idle()

    def retire(self) -> None:
        """Close it when nobody uses it any more."""
        self._retired = True
        self._close_if_idle()

    async def closed(self) -> None:
        """Close it now. What is under way on it fails."""
        self._retired, self._users = True, 0
        self._close_if_idle()
        if self._closing is not None:
            await self._closing

    def _close_if_idle(self) -> None:
        if self._retired and not self._users and self._closing is None:
            if self._connecting is not None:
                self._connecting.cancel()
            self._closing = asyncio.create_task(self._channel.close())

    async def _connect(self) -> str | None:
        """Connect, or say why it cannot be."""
        try:
            async with asyncio.timeout(self._timeout):
                state = self._channel.get_state(try_to_connect=True)
                while state in (_State.IDLE, _State.CONNECTING):
                    await self._channel.wait_for_state_change(state)
                    state = self._channel.get_state(try_to_connect=True)
        except TimeoutError:
            return f"it did not accept within {self._timeout:g} s"
        return None if state is _State.READY else "it takes no connection for gRPC"


class Channels:
    """The connections, by worker."""

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._links: dict[str, Link] = {}
        self._retired: set[Link] = set()

    async def to(self, worker: Worker) -> Link:
        """A connection to the worker that is there. Raises WorkerUnreachable."""
        address = worker.grpc_address
        if address is None:
            raise WorkerUnreachable(f"{worker.id} does not speak gRPC")
        link = self._links.get(worker.id)
        if link is None or link.address != address:
            self.forget(worker.id)
            link = self._links[worker.id] = Link(address, self._connect_timeout)
        if not link.ready:
            try:
                await link.connect()
            except WorkerUnreachable:
                if self._links.get(worker.id) is link:
                    self.forget(worker.id)
                raise
        return link

    def forget(self, key: str) -> None:
        """The worker with this id has left: what is under way on its connection may end, nothing new begins."""
        link = self._links.pop(key, None)
        if link is not None:
            self._retired = {old for old in self._retired if old.open}
            self._retired.add(link)
            link.retire()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(link.closed() for link in (*self._links.values(), *self._retired)))
        self._links.clear()
        self._retired.clear()
