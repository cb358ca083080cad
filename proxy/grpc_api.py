"""The proxy's gRPC port: TensorFlow Serving's services and whatever else the workers speak, passed on as bytes.

Two things are answered here. `grpc.health.v1.Health` says whether there is a worker to send calls to. And
`HandleReloadConfigRequest` is refused: it would change one worker, whichever it met, and leave the others as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from discovery.endpoints import join
from muster.wire import GRPC_BURSTS, GRPC_HEALTH_NAMES
from proxy.commons import Commons
from proxy.grpc_calls import Refused
from proxy.grpc_channels import Channels
from proxy.grpc_quietly import grpc
from proxy.grpc_relay import GrpcRelay
from proxy.grpc_room import largest_message
from proxy.grpc_wants import SERVICE, UNARY
from proxy.listeners import bind

MAX_MESSAGE = 2**31 - 1
"""Bytes; what gRPC can count."""
_HEALTH = "/grpc.health.v1.Health/"
_RELOAD = SERVICE + "ModelService/HandleReloadConfigRequest"
_NAMES = frozenset(b"\x0a%c%b" % (len(name), name.encode()) if name else b"" for name in GRPC_HEALTH_NAMES)
"""The requests of Health that ask for something that is here, as they are on the wire."""
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class GrpcApi(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of each call.

    Messages are framed the same way in calls of all four kinds. All are taken as streams: for one request gRPC itself
    would wait as long as the connection lives, and hold any number of them.
    """

    def __init__(self, commons: Commons, channels: Channels) -> None:
        self._commons = commons
        self._relay = GrpcRelay(commons, channels)
        self._handlers = {method: self._unary(method) for method in UNARY}
        self._handlers[_HEALTH + "Check"] = grpc.stream_unary_rpc_method_handler(self._check)
        self._handlers[_HEALTH + "Watch"] = grpc.stream_stream_rpc_method_handler(self._watch)
        self._handlers[_RELOAD] = grpc.stream_unary_rpc_method_handler(self._reload)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method; none is unknown, for the workers may know it."""
        method = handler_call_details.method
        return self._handlers.get(method) or self._stream(method)

    def _unary(self, method: str) -> Any:
        async def handle(_: Any, context: Any) -> bytes:
            return await self._relay.unary(method, context)

        return grpc.stream_unary_rpc_method_handler(handle)

    def _stream(self, method: str) -> Any:
        async def handle(_: Any, context: Any) -> None:
            await self._relay.stream(method, context)

        return grpc.stream_stream_rpc_method_handler(handle)

    @property
    def _health(self) -> bytes:
        able = any(seat.worker.grpc_port is not None for seat in self._commons.roster.seats)
        return SERVING if able and not self._commons.draining else NOT_SERVING

    async def _check(self, _: Any, context: Any) -> bytes:
        if await self._relay.own(_HEALTH + "Check", context) not in _NAMES:
            unknown = Refused(grpc.StatusCode.NOT_FOUND, "there is no such service here")
            await self._relay.refuse(_HEALTH + "Check", context, unknown)
        return self._health

    async def _watch(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        await self._relay.own(_HEALTH + "Watch", context)
        said = b""
        while True:
            change = self._commons.change
            if said != self._health:
                said = self._health
                yield said
            elif self._commons.draining:
                return
            else:
                await change.wait()

    async def _reload(self, _: Any, context: Any) -> bytes:
        sentence = "a proxy does not reload its workers: send HandleReloadConfigRequest to each of them itself"
        await self._relay.refuse(_RELOAD, context, Refused(grpc.StatusCode.FAILED_PRECONDITION, sentence))


class GrpcServer:
    """The port, which opens with `start`: ours from the beginning, or shared with siblings and held by the parent."""

    def __init__(
        self, server: Any, channels: Channels, commons: Commons, address: str, largest: int, *, shared: bool
    ) -> None:
        self.largest = largest
        """Bytes of the largest message."""
        self._server = server
        self._channels = channels
        self._commons = commons
        self._address = address
        # gRPC lets connections in as soon as it has a port. Of a shared one they would wait, while a sibling has time.
        self.port = 0 if shared else server.add_insecure_port(address)

    async def start(self) -> None:
        """Take calls."""
        self.port = self.port or self._server.add_insecure_port(self._address)
        await self._server.start()

    async def drain(self) -> None:
        """Take no new calls, let those under way finish, cut off what is left after the limit."""
        await self._server.stop(self._commons.settings.drain_timeout)
        await self._channels.close()


def grpc_server(commons: Commons, *, shared: bool) -> GrpcServer:
    """A server on the address that the settings say. OSError if it is taken; a `drain` is owed."""
    settings = commons.settings
    if not shared:
        _check_free(settings.host, settings.grpc_port)
    channels = Channels(settings.connect_timeout)
    commons.on_left.append(lambda seat: channels.forget(seat.worker.id))
    largest = min(settings.max_body, largest_message(settings.replay_total), MAX_MESSAGE)
    server = grpc.aio.server(options=(
        *GRPC_BURSTS,
        ("grpc.so_reuseport", int(shared)),  # or a second proxy would take half of the calls
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_connections_per_peer),
        ("grpc.server_handshake_timeout_ms", _milliseconds(settings.header_timeout)),
        ("grpc.max_connection_idle_ms", _milliseconds(settings.idle_timeout)),
        ("grpc.keepalive_time_ms", _milliseconds(settings.idle_timeout)),  # or who vanished would stay for hours
    ))  # fmt: skip
    server.add_generic_rpc_handlers((GrpcApi(commons, channels),))
    address = join(settings.host or "::", settings.grpc_port)  # no host is every address; gRPC wants that written out
    return GrpcServer(server, channels, commons, address, largest, shared=shared)


def _milliseconds(seconds: float) -> int:
    """As gRPC takes times, which knows no longer ones."""
    return min(round(seconds * 1000), 2**31 - 1)


def _check_free(host: str, port: int) -> None:
    """Raises OSError if nobody can listen there: gRPC's own complaint is several lines and names no reason."""
    try:
        for sock in bind(host, port, 1)[0]:
            sock.close()
    except OSError as error:
        raise OSError(f"{error} (--grpc-port, --no-grpc)") from None
