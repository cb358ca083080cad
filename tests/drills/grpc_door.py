"""The gRPC port of a drill worker: any call of one request is answered as its `Behaviour` says."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import Any

import grpc
import grpc.aio

from tests.drills.worker import Desk

_CODES = {500: grpc.StatusCode.INTERNAL, 503: grpc.StatusCode.UNAVAILABLE}


class GrpcDoor(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every method. `delay` and `status` count; the answer is empty, the checksum of the request comes behind it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._handler = grpc.unary_unary_rpc_method_handler(self._answer)

    def service(self, _: Any) -> Any:
        return self._handler

    async def _answer(self, request: bytes, context: Any) -> bytes:
        seen, behaviour = self._desk.seen, self._desk.behaviour
        seen.arrivals.append(time.monotonic())
        seen.held += 1
        seen.most = max(seen.most, seen.held)
        try:
            await asyncio.sleep(behaviour.delay)
        except asyncio.CancelledError:
            seen.cancelled.append(time.monotonic())
            raise
        finally:
            seen.held -= 1
        told = ("x-body-crc32", str(zlib.crc32(request))), ("x-served-by", self._desk.worker.id)
        if behaviour.status != 200:
            seen.refused += 1
            await context.abort(_CODES[behaviour.status], "so it was told to", told)
        seen.answered += 1
        context.set_trailing_metadata(told)
        return b"." * behaviour.size


async def open_door(desk: Desk, port: int) -> Any:
    """The server; `stop` is owed."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)))
    server.add_generic_rpc_handlers((GrpcDoor(desk),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server
