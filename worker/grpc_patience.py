"""A client that opens a call and sends no request holds one of the calls that may be under way; not for ever, here.

gRPC itself waits for a request as long as the connection lives. Seen from the wire a call with one request is a call
with a stream of them, so such calls are taken as streams, of which one message is read in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from worker.grpc_calls import abort
from worker.status import Code


class Patient(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc tells no types
    """`handlers`, whose calls end if their request is not here after `patience` seconds."""

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler], patience: float) -> None:
        self._handlers = handlers
        self._patience = patience
        self._known: dict[str, Any] = {}

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method, or None."""
        method = handler_call_details.method
        if method not in self._known:
            found = (handler.service(handler_call_details) for handler in self._handlers)
            inner = next((handler for handler in found if handler is not None), None)
            if inner is None:
                return None  # names of methods that are not here are any number
            self._known[method] = self._patient(inner)
        return self._known[method]

    def _patient(self, inner: Any) -> Any:
        async def answer(_: Any, context: Any) -> Any:
            return await inner.unary_unary(await self._request(context), context)

        async def answers(_: Any, context: Any) -> AsyncIterator[Any]:
            async for message in inner.unary_stream(await self._request(context), context):
                yield message

        if inner.response_streaming:
            return grpc.stream_stream_rpc_method_handler(answers)
        return grpc.stream_unary_rpc_method_handler(answer)

    async def _request(self, context: Any) -> bytes:
        try:
            async with asyncio.timeout(self._patience):
                request: bytes = await context.read()
        except TimeoutError:
            await abort(
                context, Code.DEADLINE_EXCEEDED, f"the request did not arrive within {self._patience:g} seconds"
            )
        if request is grpc.aio.EOF:
            await abort(context, Code.INTERNAL, "the request is missing")
        return request
