"""The heads that leave the proxy, put together from parsed parts: what is dropped, what is added. Values in, bytes out.

To a worker go the client's headers in their order and spelling, less those that concern one connection only (RFC 9110,
7.6.1) and those with an underscore in the name, plus `X-Forwarded-For/-Proto/-Host` and `X-Request-Id`. To a client go
the worker's, plus `X-Request-Id`, `Server-Timing` and, where the worker did not say it, `X-Served-By`.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from muster.errors import ClusterError
from muster.framing import Buffer
from proxy.request_heads import NEVER_NOMINATED, RequestHead
from proxy.response_heads import ResponseHead

HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate",
                        b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade",
                        b"http2-settings"})  # fmt: skip
_NOT_TO_WORKER = HOP_BY_HOP | {
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-request-id",
    b"expect",
}
_NOT_TO_CLIENT = HOP_BY_HOP | {b"x-request-id"}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def request_to_worker(head: RequestHead, peer: bytes, request_id: bytes, *, expect: bool, body: bool) -> bytes:
    """The head that a worker gets. `peer`: the client's address; `expect`: the worker is to invite the body."""
    if body:
        before, after = head.pieces = head.pieces or _to_worker(head, body=True)
    else:
        before, after = _to_worker(head, body=False)
    end = b"Expect: 100-continue\r\n\r\n" if expect else b"\r\n"
    return b"".join((before, peer, b"\r\nX-Forwarded-Proto: http\r\nX-Request-Id: ", request_id, after, end))


def _to_worker(head: RequestHead, *, body: bool) -> tuple[bytes, bytes]:
    """What comes before the client's address and after the request's id: it is in the client's head alone."""
    parts = [head.method, b" ", head.target, b" HTTP/1.1\r\n"]
    if not head.host:
        parts.append(b"Host: localhost\r\n")  # HTTP/1.0 may come without, HTTP/1.1 may not
    forwarded_for: list[bytes] = []
    nominated = head.nominated
    for name, lower, value in head.headers:
        if lower in _NOT_TO_WORKER or lower in nominated:
            if lower == b"x-forwarded-for":
                forwarded_for += (value, b", ")
            continue
        # An underscore is how `Content_Length` would pass for `Content-Length` at a worker that speaks CGI.
        if b"_" in lower or (not body and lower == b"content-length"):
            continue
        parts += (name, b": ", value, b"\r\n")
    parts += (b"X-Forwarded-For: ", *forwarded_for)
    after = [b"\r\n"]
    if head.host:
        after += (b"X-Forwarded-Host: ", head.host, b"\r\n")
    if body and head.chunked:
        after.append(b"Transfer-Encoding: chunked\r\n")
    if head.websocket:
        after.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    return b"".join(parts), b"".join(after)


def response_to_client(
    head: ResponseHead, request: RequestHead, extra: bytes, data: Buffer, *, chunked: bool, close: bool
) -> bytes:
    """The head that a client gets, and what follows it. `extra`: further header lines; `chunked`: the body, of which
    `data` is the first piece, is framed anew."""
    own = head.pieces = head.pieces or _to_client(head)
    if request.http11 and not (close or chunked or head.status == 101):
        return b"".join((own, extra, b"\r\n", data))
    parts: list[Buffer] = [own, extra]
    if head.status == 101:
        parts += (b"Connection: Upgrade\r\nUpgrade: ", head.upgrade, b"\r\n")
    elif close:
        parts.append(b"Connection: close\r\n")
    elif not request.http11:
        parts.append(b"Connection: keep-alive\r\n")
    if chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    parts += (b"\r\n", data)
    return b"".join(parts)


def _to_client(head: ResponseHead) -> bytes:
    """The status and the headers that are the worker's."""
    parts = [b"HTTP/1.1 %d " % head.status, head.reason, b"\r\n"]
    dropped = head.nominated - NEVER_NOMINATED if head.nominated else head.nominated
    for name, lower, value in head.headers:
        if lower in _NOT_TO_CLIENT or lower in dropped:
            continue
        if lower == b"content-length" and (head.content_length is None or head.status == 204):
            continue  # RFC 9110, 8.6
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


def error_to_client(error: ClusterError, request_id: bytes, *, head_only: bool, close: bool) -> bytes:
    """A whole answer that says what went wrong, as JSON. `head_only`: it answers HEAD, so the body stays away."""
    body = json.dumps(error.to_json()).encode() + b"\n"
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error.headers()}
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if request_id:
        lines.append(f"X-Request-Id: {request_id.decode('ascii')}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head_only else body)


class RequestIds:
    """Takes over a client's request id where it is sane, else makes one: a random prefix and a counter."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self._count = 0

    def of(self, own: bytes) -> bytes:
        """The id under which this request is known everywhere. `own` is the client's, if it has a sane one."""
        if own:
            return own
        self._count += 1
        return b"%b-%x" % (self._prefix, self._count)
