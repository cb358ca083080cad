"""Request heads: parsed strictly and judged. Pure: bytes in, values out.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1 framing).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import httptools

from muster.errors import BadRequest, ExpectationFailed, HeadersTooLarge, MethodNotAllowed, VersionNotSupported
from muster.fields import is_host, is_length
from proxy.heads import Collector, Fields, Headers, Known, judge, tokens_of

METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})  # RFC 9110, 9.2.2
MAX_HEADERS = 128
MAX_REQUEST_ID = 128  # bytes

# A client may name any header in Connection to have it dropped on the way; these it may not take away from the worker.
NEVER_NOMINATED = frozenset({b"host", b"content-length", b"content-type", b"expect", b"x-forwarded-for",
                             b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"})  # fmt: skip

_VISIBLE = bytes(range(0x21, 0x7F))


class RequestHead:
    """One request, up to its body; shared, so nobody changes it. `content_length` is None when there is no body or it
    is `chunked`."""

    __slots__ = ("chunked", "content_length", "expects_continue", "headers", "host", "http11", "keep_alive", "method",
                 "nominated", "pieces", "request_id", "target",
                 "websocket")  # fmt: skip

    def __init__(self, method: bytes, target: bytes, http11: bool) -> None:
        self.method = method
        self.target = target
        self.http11 = http11
        self.headers: Headers = []
        self.host = b""
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = http11
        self.expects_continue = False
        self.websocket = False
        self.request_id = b""  # the client's own, if it is sane
        self.nominated: frozenset[bytes] = frozenset()
        self.pieces: tuple[bytes, bytes] | None = None
        """What `rewrite` makes of it, for the next time."""

    @property
    def has_body(self) -> bool:
        """Will body bytes follow?"""
        return self.chunked or bool(self.content_length)

    @property
    def idempotent(self) -> bool:
        """Does sending it twice mean the same as sending it once?"""
        return self.method in IDEMPOTENT

    @property
    def path(self) -> bytes:
        """The target without its query, exactly as it was sent."""
        return self.target.partition(b"?")[0]


_known = Known[RequestHead]()


def parse_request(raw: bytes, most: int = MAX_HEADERS) -> RequestHead:
    """Read one request head with up to `most` headers, the same at each call: `raw` ends with its empty line. An unfit
    one raises the ClusterError to answer with."""
    head = _known.get(raw)
    if head is None:
        head = _read_request(raw, most)
        _known.learn(raw, head)
    return head


def _read_request(raw: bytes, most: int) -> RequestHead:
    collector = Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # llhttp stops where an upgrade may begin; whether it does is decided below
    except httptools.HttpParserError as error:
        raise BadRequest(f"this is not a request that can be read: {error}") from None
    method, target = parser.get_method(), collector.start
    http11 = _version(raw, b"%b %b HTTP/1." % (method, target))
    if method not in METHODS:
        raise MethodNotAllowed(
            f"{method.decode()} is not allowed", allow=", ".join(sorted(m.decode() for m in METHODS))
        )
    if target[:1] != b"/" or b"#" in target:
        raise BadRequest("the request target has to be a path that begins with a slash")
    if len(collector.fields) > most:
        raise HeadersTooLarge(f"more than {most} headers")
    head = RequestHead(method, target, http11)
    _judge_request(head, collector.fields)
    return head


def _version(raw: bytes, start: bytes) -> bool:
    """Is it HTTP/1.1 (or 1.0)? The request line has to be `start` and the minor version, to the byte."""
    line = raw[: raw.index(b"\r\n")]
    if line[:-1] == start and line[-1:] in (b"0", b"1"):
        return line[-1:] == b"1"
    if re.search(rb" HTTP/\d", line):
        if b" HTTP/1." in line:
            raise BadRequest("the request line is not a method, a target and a version with one space between them")
        raise VersionNotSupported("only HTTP/1.1 and HTTP/1.0 are spoken here")
    raise BadRequest("a request line ends with the version of HTTP")


def _judge_request(head: RequestHead, fields: Fields) -> None:
    judge(head, fields, _JUDGES)
    if head.http11 and not head.host:
        raise BadRequest("a request needs a Host header")
    if head.chunked and head.content_length is not None:
        raise BadRequest("a request has either Content-Length or Transfer-Encoding, not both")
    # An upgrade counts only when Connection names it as well (RFC 9110, 7.8), and here only without a body.
    head.websocket = (
        head.websocket and b"upgrade" in head.nominated and head.method == b"GET" and head.http11 and not head.has_body
    )


def _host(head: RequestHead, value: bytes) -> None:
    if head.host:
        raise BadRequest("a request has one Host header, not several")
    if not is_host(value):
        raise BadRequest("the Host header is not a host name or address with an optional port")
    head.host = value


def _content_length(head: RequestHead, value: bytes) -> None:
    if head.content_length is not None or not is_length(value):
        raise BadRequest("Content-Length has to be one decimal number")
    head.content_length = int(value)


def _transfer_encoding(head: RequestHead, value: bytes) -> None:
    if head.chunked or value.lower() != b"chunked" or not head.http11:
        raise BadRequest("the only Transfer-Encoding that is understood is chunked, once, in HTTP/1.1")
    head.chunked = True


def _connection(head: RequestHead, value: bytes) -> None:
    tokens = tokens_of(value)
    if b"close" in tokens:
        head.keep_alive = False
    elif b"keep-alive" in tokens and not head.http11:
        head.keep_alive = True
    head.nominated |= tokens - NEVER_NOMINATED


def _expect(head: RequestHead, value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise ExpectationFailed("the only expectation that is understood is 100-continue")
    head.expects_continue = head.http11


def _upgrade(head: RequestHead, value: bytes) -> None:
    head.websocket = value.lower() == b"websocket"


def is_request_id(value: bytes) -> bool:
    """Is it fit to be written into headers and logs as a request's id?"""
    return 0 < len(value) <= MAX_REQUEST_ID and not value.translate(None, _VISIBLE)


def _request_id(head: RequestHead, value: bytes) -> None:
    if is_request_id(value):
        head.request_id = value


_JUDGES: dict[bytes, Callable[[RequestHead, bytes], None]] = {
    b"host": _host,
    b"content-length": _content_length,
    b"transfer-encoding": _transfer_encoding,
    b"connection": _connection,
    b"expect": _expect,
    b"upgrade": _upgrade,
    b"x-request-id": _request_id,
}
