"""The metadata that leaves the proxy with a gRPC call: what is dropped, what is added. Pure.

To a worker goes the client's, less what concerns one connection only, plus `x-forwarded-for` and `x-request-id`. To a
client goes the worker's, plus `x-request-id`, `server-timing` and, where the worker did not say it, `x-served-by`: what
HTTP's headers get, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

from muster.wire import REQUEST_ID, SERVED_BY, SERVER_TIMING
from proxy.request_heads import is_request_id

Metadata = tuple[tuple[str, str | bytes], ...]

_REQUEST_ID, _SERVED_BY, _TIMING = REQUEST_ID.lower(), SERVED_BY.lower(), SERVER_TIMING.lower()
_FORWARDED_FOR = "x-forwarded-for"
_NOT_TO_WORKER = frozenset(("user-agent", "content-type", "te", "host", "connection", _REQUEST_ID, _FORWARDED_FOR))
_HOP_BY_HOP = ("grpc-", ":")


def own_request_id(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The id that the client gave its call, if it is sane; else nothing."""
    own = next((value for key, value in metadata if key == _REQUEST_ID), "")
    sent = own.encode("ascii", "replace") if isinstance(own, str) else own
    return sent if is_request_id(sent) else b""


def to_worker(metadata: Iterable[tuple[str, str | bytes]], address: str, request_id: str) -> Metadata:
    """What the worker gets. `address` is the client's."""
    kept: list[tuple[str, str | bytes]] = []
    forwarded_for: list[str] = []
    for key, value in metadata:
        if key == _FORWARDED_FOR:
            forwarded_for.append(str(value))
        elif key not in _NOT_TO_WORKER and not key.startswith(_HOP_BY_HOP):
            kept.append((key, value))
    forwarded_for.append(address)
    return (*kept, (_FORWARDED_FOR, ", ".join(forwarded_for)), (_REQUEST_ID, request_id))


def to_client(metadata: Iterable[tuple[str, str | bytes]], request_id: str, *, own: Metadata = ()) -> Metadata:
    """What the client gets behind the answer, or with the error: the worker's `metadata`, and our `own`."""
    kept = [(key, value) for key, value in metadata if key != _REQUEST_ID]
    served_by = any(key == _SERVED_BY for key, _ in kept)
    added = [(key, value) for key, value in own if not (served_by and key == _SERVED_BY)]
    return (*kept, (_REQUEST_ID, request_id), *added)


def told(worker_id: str, seconds: float, attempts: int) -> Metadata:
    """What the proxy says of a call that a worker answered."""
    return (
        (_TIMING, f"proxy;dur={seconds * 1000:.2f}, attempts;desc={attempts}"),
        (_SERVED_BY, worker_id.encode("ascii", "replace").decode()),
    )


def address_of(peer: str) -> str:
    """The address in gRPC's name of a peer: `ipv4:1.2.3.4:5` is 1.2.3.4, `ipv6:%5B::1%5D:5` is ::1."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind or "unknown"
    return rest.rpartition(":")[0].strip("[]")
