"""One gRPC call of a client, what was tried for it, and how it can end: with an answer, or refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from muster.errors import ClusterError, UnknownModel
from proxy import grpc_metadata
from proxy.access import COMPLETE, REFUSED, SLOW, end_of
from proxy.dispatch import Attempts
from proxy.grpc_metadata import Metadata
from proxy.grpc_quietly import grpc
from proxy.seats import Seat
from proxy.wants import Want

MAX_DETAILS = 1024
"""Characters of a sentence of ours about an error; it travels in a header."""
Code = grpc.StatusCode
_CODES = {400: Code.INVALID_ARGUMENT, 404: Code.NOT_FOUND, 502: Code.UNAVAILABLE, 503: Code.UNAVAILABLE,
          504: Code.DEADLINE_EXCEEDED}  # fmt: skip
ANYTHING = Want(grpc=True)


class Refused(Exception):
    """There is no answer, or no more of it: how the call ends for the client."""

    def __init__(
        self, code: Any, details: str, initial: Metadata = (), trailing: Metadata = (), *, end: bytes = REFUSED
    ) -> None:
        super().__init__(details)
        self.end = end  # as the access log says who ended it
        self.code = code
        self.details = details
        self.initial = initial
        self.trailing = trailing


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker answered, and its metadata as the client gets it."""

    message: bytes
    initial: Metadata
    trailing: Metadata


@dataclass(slots=True)
class Call:
    """One call of a client: what it wants, and what was tried for it."""

    method: str
    context: Any
    request_id: str
    address: str  # the client's
    want: Want = ANYTHING  # known when the request is here
    received: int = 0  # bytes of its request
    too_large: bool = False  # its request seems to be, and gRPC ends it for that
    attempts: Attempts = field(default_factory=Attempts)
    tried: list[Seat] = field(default_factory=list)
    refused: Refused | None = None  # how the last attempt ended
    seat: Seat | None = None  # of the last attempt
    waited: float = 0.0  # seconds, for a seat
    took: float = 0.0  # seconds that the last attempt lasted
    started: float = field(default_factory=perf_counter)

    @property
    def seconds(self) -> float:
        """Since it came."""
        return perf_counter() - self.started

    def to_worker(self) -> Metadata:
        """The metadata that the worker gets."""
        context = self.context
        return grpc_metadata.to_worker(context.invocation_metadata() or (), self.address, self.request_id)

    def to_client(self, trailing: Any, seat: Seat) -> Metadata:
        """The metadata that the client gets at the end, of which `trailing` is the worker's."""
        told = grpc_metadata.told(seat.worker.id, self.seconds, self.attempts.made)
        return grpc_metadata.to_client(trailing or (), self.request_id, own=told)


def passed_on(error: Any, call: Call, seat: Seat) -> Refused:
    """What the worker said, or gRPC about it."""
    trailing = call.to_client(error.trailing_metadata(), seat)
    end = SLOW if error.code() is Code.DEADLINE_EXCEEDED else COMPLETE
    return Refused(error.code(), error.details() or "", tuple(error.initial_metadata() or ()), trailing, end=end)


def refused(error: ClusterError) -> Refused:
    """An error of ours, as gRPC says it."""
    sentence = error.message
    if isinstance(error, UnknownModel):
        known = ", ".join(error.details.get("models", ()))
        sentence += f"; the models here are: {known}" if known else "; there are no models here"
    return Refused(_CODES.get(error.status, Code.INTERNAL), sentence[:MAX_DETAILS], end=end_of(error))
