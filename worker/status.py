"""The canonical codes in which TensorFlow and gRPC speak of errors, and the HTTP status that belongs to each.

`StatusError` is such an error as one of ours, so that every door can turn it into its own kind of answer; `code_of`
is the way back, for errors of ours that leave through gRPC. The numbers are google.rpc.Code's.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from muster.errors import ClusterError


class Code(Enum):
    """A canonical code: its number on the wire, and the HTTP status."""

    OK = 0, 200
    CANCELLED = 1, 499
    UNKNOWN = 2, 500
    INVALID_ARGUMENT = 3, 400
    DEADLINE_EXCEEDED = 4, 504
    NOT_FOUND = 5, 404
    ALREADY_EXISTS = 6, 409
    PERMISSION_DENIED = 7, 403
    RESOURCE_EXHAUSTED = 8, 429
    FAILED_PRECONDITION = 9, 400
    ABORTED = 10, 409
    OUT_OF_RANGE = 11, 400
    UNIMPLEMENTED = 12, 501
    INTERNAL = 13, 500
    UNAVAILABLE = 14, 503
    DATA_LOSS = 15, 500
    UNAUTHENTICATED = 16, 401

    def __init__(self, number: int, http: int) -> None:
        self.number = number
        self.http = http


_BY_NUMBER = {code.number: code for code in Code}
_BY_HTTP = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    413: Code.INVALID_ARGUMENT,
    415: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class StatusError(ClusterError):
    """An error with a canonical code. The message is what TensorFlow Serving says, where it says something."""

    def __init__(self, canonical: Code, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.canonical = canonical
        self.status = canonical.http

    def to_json(self) -> dict[str, Any]:
        """See ClusterError; the machine-readable word is the canonical code's."""
        return {**super().to_json(), "code": self.canonical.name.lower()}

    def headers(self) -> dict[str, str]:
        """See ClusterError; who is told that we are busy may come again in a second."""
        return {"Retry-After": "1"} if self.canonical is Code.UNAVAILABLE else {}


def code_of(error: ClusterError) -> Code:
    """The canonical code of any error of ours."""
    if isinstance(error, StatusError):
        return error.canonical
    return _BY_HTTP.get(error.status, Code.INTERNAL)


def code_of_number(number: int) -> Code:
    """The code with this number, as in a `tf.errors.OpError`'s `error_code`; UNKNOWN if there is none."""
    return _BY_NUMBER.get(number, Code.UNKNOWN)
