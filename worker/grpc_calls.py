"""What every gRPC method of this worker has in common: bytes in, bytes out, and errors of ours as gRPC's.

Messages are read and written by the methods themselves, for that is work which may be too long for the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError

from muster.errors import ClusterError
from worker.inference import Inference
from worker.status import Code, StatusError, code_of

log = logging.getLogger(__name__)
T = TypeVar("T")
Method: TypeAlias = Callable[[bytes, Any], Awaitable[bytes]]
"""Takes a serialised request and the `grpc.aio.ServicerContext`; raises ClusterError."""

LARGE: Final = 640 * 1024
"""Bytes. Larger messages are read and written in a thread, so that others are not kept waiting. For smaller ones, an
image of 224×224 pixels as numbers among them, the way to a thread and back takes longer than the work."""
LONGEST_DETAILS: Final = 1024
"""Bytes of an error's text. They travel in a header, and clients refuse to read large ones."""
_TRUNCATED: Final = "...TRUNCATED"
_GRPC_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def unary_methods(service: str, methods: Mapping[str, Method]) -> grpc.GenericRpcHandler:
    """Serve `methods` by their names within `service`."""
    handlers = {name: grpc.unary_unary_rpc_method_handler(answering(method)) for name, method in methods.items()}
    return grpc.method_handlers_generic_handler(service, handlers)


def answering(method: Method) -> Method:
    """`method` with its errors told as gRPC tells errors."""

    async def answer(data: bytes, context: Any) -> bytes:
        try:
            return await method(data, context)
        except ClusterError as error:
            await abort(context, code_of(error), error.message)
        except Exception:  # a mistake of ours: the operator sees the traceback, the client a sentence
            log.exception("a gRPC call failed")
            await abort(context, Code.INTERNAL, "the worker made a mistake")
        raise AssertionError("abort returns never")

    return answer


async def abort(context: Any, code: Code, message: str) -> None:
    """End the call with an error."""
    await context.abort(_GRPC_CODES[code.number], cut(message))


def cut(message: str) -> str:
    """An error's text as far as it is sent."""
    encoded = message.encode("utf-8", "replace")
    if len(encoded) <= LONGEST_DETAILS:
        return message
    return encoded[:LONGEST_DETAILS].decode("utf-8", "ignore") + _TRUNCATED


def parse(kind: Any, data: bytes) -> Any:
    """The message of class `kind` in `data`. Raises StatusError, with the code that gRPC's own servers have for it."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise StatusError(Code.INTERNAL, f"the request cannot be read as a {kind.DESCRIPTOR.full_name}") from None


async def aside(inference: Inference, size: int, work: Callable[[], T]) -> T:
    """Do `work`, which deals with `size` bytes: here if they are few, else in a thread."""
    return work() if size <= LARGE else await inference.in_thread(work)
