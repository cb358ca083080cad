"""One error tree for both ends of the wire.

Whoever raises knows best what it means, so the class carries the HTTP status and a machine-readable code.
`to_json` is the body that every server of the cluster sends; `from_json` is how the client gets the class back.

    ClusterError
    ├── the caller's mistake (4xx): BadRequest, BadImage, NotAnImage, NotFound, MethodNotAllowed, TooLarge, Forbidden …
    └── ours (5xx): Overloaded, NoWorkers, WorkerUnreachable, WorkerBroke, WorkerTimeout …, and the root itself

`retryable` says whether another worker may be asked instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ClusterError(Exception):
    """The server's fault, and nothing more is known. `details` are extra members of the JSON body."""

    status: int = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    retry_after: ClassVar[int | None] = None
    """Seconds after which trying again makes sense; sent as `Retry-After`."""

    by_code: ClassVar[dict[str, type[ClusterError]]] = {}

    def __init_subclass__(cls) -> None:
        # A subclass that does not name its own code shares its parent's and is not what the code turns back into.
        if "code" in cls.__dict__:
            ClusterError.by_code[cls.code] = cls

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def to_json(self) -> dict[str, Any]:
        """`{"error": one sentence, "code": machine word, …}`; TensorFlow Serving's clients read `error`."""
        return {"error": self.message, "code": self.code, **self.details}

    def headers(self) -> dict[str, str]:
        """Headers the answer carries besides its type and length."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @staticmethod
    def from_json(status: int, body: object) -> ClusterError:
        """The error a server meant by `body`, the parsed JSON of its answer, or a plain one that names the status."""
        if not isinstance(body, Mapping) or not isinstance(body.get("error"), str):
            return UnexpectedAnswer(f"the server answered with HTTP {status} and no explanation", status=status)
        details = {key: value for key, value in body.items() if key not in ("error", "code")}
        kind = ClusterError.by_code.get(str(body.get("code")))
        return kind(body["error"], **details) if kind else UnexpectedAnswer(body["error"], status=status)


class BadRequest(ClusterError):
    """The request cannot be understood as it stands."""

    status, code = 400, "bad_request"


class BadImage(ClusterError):
    """It claims to be an image of a kind that we read, but its data is damaged."""

    status, code = 400, "bad_image"


class NotAnImage(ClusterError):
    """The data is not an image of a kind that we read."""

    status, code = 415, "not_an_image"


class UnsupportedEncoding(ClusterError):
    """The body is compressed in a way that we do not undo."""

    status, code = 415, "unsupported_encoding"


class Forbidden(ClusterError):
    """The operator switched this off."""

    status, code = 403, "forbidden"


class NotFound(ClusterError):
    """There is no such route, model or version."""

    status, code = 404, "not_found"


class UnknownModel(NotFound):
    """No worker here has this model, version or label."""

    code = "unknown_model"


class MethodNotAllowed(ClusterError):
    """The route exists, the method does not fit. `allow` lists those that do."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allow: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.allow = allow

    def headers(self) -> dict[str, str]:  # noqa: D102
        return {"Allow": self.allow} if self.allow else {}


class RequestTimeout(ClusterError):
    """The client did not finish sending in time."""

    status, code = 408, "request_timeout"


class TooLarge(ClusterError):
    """More bytes or pixels than the limit allows."""

    status, code = 413, "too_large"


class HeadersTooLarge(ClusterError):
    """More header bytes or lines than the limit allows."""

    status, code = 431, "headers_too_large"


class VersionNotSupported(ClusterError):
    """Neither HTTP/1.0 nor HTTP/1.1."""

    status, code = 505, "version_not_supported"


class ExpectationFailed(ClusterError):
    """The client expects something other than `100-continue`."""

    status, code = 417, "expectation_failed"


class Overloaded(ClusterError):
    """This worker is full; its neighbour may not be."""

    status, code, retryable, retry_after = 503, "overloaded", True, 1


class Draining(ClusterError):
    """This worker is on its way out and takes no new work."""

    status, code, retryable, retry_after = 503, "draining", True, 1


class Loading(ClusterError):
    """This worker has not loaded its models yet."""

    status, code, retryable, retry_after = 503, "loading", True, 1


class NoWorkers(ClusterError):
    """Nobody is there to answer."""

    status, code, retry_after = 503, "no_workers", 1


class WorkerUnreachable(ClusterError):
    """No connection, so the worker never saw the request."""

    status, code, retryable = 502, "worker_unreachable", True


class WorkerBroke(ClusterError):
    """The worker took the request and then died, or answered with something that is not HTTP."""

    status, code = 502, "worker_broke"


class WorkerTimeout(ClusterError):
    """The worker began and did not finish; asking another would double the work."""

    status, code = 504, "worker_timeout"


class UnexpectedAnswer(ClusterError):
    """An answer that this version of the client has no class for. `status` is the HTTP status it came with."""

    code = "unexpected_answer"

    def __init__(self, message: str, status: int = 500, **details: Any) -> None:
        super().__init__(message, **details)
        self.status = status


class ConnectionFailed(ClusterError):
    """Raised by the client: nothing answers at the address."""

    status, code, retryable = 503, "connection_failed", True
