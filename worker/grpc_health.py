"""`grpc.health.v1.Health`: load balancers and Kubernetes ask it whether to send requests here.

The answer is that of `/readyz`: no while models are loaded, no when the worker is about to leave. A drop-in for
tensorflow_model_server says yes, whatever becomes of its models, until it is about to leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from muster.errors import ClusterError, NotFound
from muster.wire import GRPC_HEALTH_NAMES
from worker.grpc_calls import abort, answering, parse
from worker.messages.health import HealthCheckRequest, HealthCheckResponse
from worker.state import State
from worker.status import Code, code_of

SERVICE: Final = "grpc.health.v1.Health"
MOST_WATCHES: Final = 128
"""Calls that watch, at the same time. They have no end, and must leave room for the calls that want work done."""


class HealthService:
    """The service. `handler` is what a gRPC server takes."""

    def __init__(self, state: State, drop_in: bool = False) -> None:
        self._state = state
        self._drop_in = drop_in
        self._changed = asyncio.Event()
        self._closed = False
        self._watches = 0
        state.on_change(self._wake)
        self.handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(answering(self._check)),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    def close(self) -> None:
        """End the calls that watch, so that the server need not wait for them."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _check(self, data: bytes, _: Any) -> bytes:
        service = parse(HealthCheckRequest, data).service
        if service not in GRPC_HEALTH_NAMES:
            raise NotFound("there is no such service")
        return _message(self._status(service))

    async def _watch(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        """The state now and after each change. A service that is not known may become so, says the protocol."""
        try:
            service = parse(HealthCheckRequest, data).service
        except ClusterError as error:
            await abort(context, code_of(error), error.message)
        if self._watches >= MOST_WATCHES:
            await abort(context, Code.RESOURCE_EXHAUSTED, f"{self._watches} calls watch this worker's health already")
        self._watches += 1
        try:
            told = ""
            while not self._closed:
                changed = self._changed
                if (status := self._status(service)) != told:
                    yield _message(status)
                    told = status
                else:
                    await changed.wait()
        finally:
            self._watches -= 1

    def _status(self, service: str) -> str:
        if service not in GRPC_HEALTH_NAMES:
            return "SERVICE_UNKNOWN"
        if self._drop_in:
            return "NOT_SERVING" if self._state.draining else "SERVING"
        try:
            self._state.check_ready()
        except ClusterError:
            return "NOT_SERVING"
        return "SERVING"


def _message(status: str) -> bytes:
    message: bytes = HealthCheckResponse(status=status).SerializeToString()
    return message
