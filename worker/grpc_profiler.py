"""`tensorflow.ProfilerService` on the worker's own gRPC port, for `tf.profiler.experimental.client` and TensorBoard.

TensorFlow brings a server for it that opens a port of its own. It is started when somebody first asks, and calls are
forwarded to it as they are, bytes for bytes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import grpc

from worker.grpc_calls import Method, unary_methods
from worker.status import StatusError, code_of_number

SERVICE: Final = "tensorflow.ProfilerService"
METHODS: Final = ("Profile", "Terminate", "Monitor")
_UNLIMITED: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class ProfilerService:
    """The service. `handler` is what a gRPC server takes."""

    def __init__(self) -> None:
        self._connecting: asyncio.Task[grpc.aio.Channel] | None = None
        methods = {name: self._forwarding(name) for name in METHODS}
        self.handler: grpc.GenericRpcHandler = unary_methods(SERVICE, methods)

    async def close(self) -> None:
        """Close the connection to TensorFlow's server, which lives as long as the process."""
        if self._connecting is not None:
            with suppress(Exception):  # then there is none
                await (await self._connecting).close()

    def _connected(self) -> asyncio.Task[grpc.aio.Channel]:
        """The connection, shared by all calls; made anew if that failed."""
        task = self._connecting
        if task is None or (task.done() and task.exception() is not None):
            task = self._connecting = asyncio.create_task(_connect())
        return task

    def _forwarding(self, name: str) -> Method:
        async def forward(data: bytes, context: Any) -> bytes:
            channel = await asyncio.shield(self._connected())  # who leaves takes it from nobody
            call = channel.unary_unary(f"/{SERVICE}/{name}")
            try:
                answer: bytes = await call(data, timeout=context.time_remaining(), wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                raise StatusError(code_of_number(error.code().value[0]), error.details() or "") from None
            return answer

        return forward


async def _connect() -> grpc.aio.Channel:
    def start() -> int:
        from worker.models.profiler import start_profiler

        return start_profiler()

    port = await asyncio.to_thread(start)
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_UNLIMITED)
