"""Request and response heads: parsed strictly and judged. Pure: bytes in, values out.

llhttp (the parser inside Node and aiohttp) reads a head in its strict mode. What it lets through and a proxy must not
is refused here, because two parsers that disagree about where a request ends are how requests are smuggled.
`rewrite` puts the heads for the other side together. Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1 framing).

A parse depends on the bytes of the head and on nothing else, and what it gives is never changed. Who keeps a connection
tends to say the same again, so heads are remembered by their bytes, all of them: bounded, and only those that may come
again and hold no credentials (`_Known`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import TypeVar

import httptools

from muster.errors import BadRequest, ExpectationFailed, HeadersTooLarge, MethodNotAllowed, VersionNotSupported

Headers = list[tuple[bytes, bytes, bytes]]
"""Name as it was spelled, name in lower case, value without the white space around it."""
Fields = list[tuple[bytes, bytes]]
"""Name and value as they were sent."""

METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})  # RFC 9110, 9.2.2
MAX_HEADERS = 128
MAX_REQUEST_ID = 128  # bytes
KNOWN = 512  # heads that are remembered, of requests and of responses each
KNOWN_SIZE = 1024  # bytes of the longest of them

# A client may name any header in Connection to have it dropped on the way; these it may not take away from the worker.
NEVER_NOMINATED = frozenset({b"host", b"content-length", b"content-type", b"expect", b"x-forwarded-for",
                             b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"})  # fmt: skip

_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[([0-9A-Fa-f:.]+)\])(?::(\d{1,5}))?")
_NOT_KEPT = re.compile(rb"x-request-id|auth|cookie|token|secret|session|passw|key")
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_VISIBLE = bytes(range(0x21, 0x7F))


class BadResponse(Exception):
    """What a worker sent is not an HTTP response."""


class RequestHead:
    """One request, up to its body; shared, so nobody changes it. `content_length` is None when there is no body or it
    is `chunked`."""

    __slots__ = ("chunked", "content_length", "expects_continue", "headers", "host", "http11", "keep_alive", "method",
                 "nominated", "pieces", "request_id", "target",
                 "websocket")  # fmt: skip

    def __init__(self, method: bytes, target: bytes, http11: bool, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.http11 = http11
        self.headers = headers
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


class ResponseHead:
    """One response, up to its body; shared, so nobody changes it. `content_length`: None if the worker did not say."""

    __slots__ = ("chunked", "content_length", "headers", "http11", "keep_alive", "names_server", "nominated", "pieces",
                 "reason", "says_when", "status", "upgrade")  # fmt: skip

    def __init__(self, status: int, reason: bytes, http11: bool, headers: Headers) -> None:
        self.status = status
        self.reason = reason
        self.http11 = http11
        self.headers = headers
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = http11
        self.nominated: frozenset[bytes] = frozenset()
        self.upgrade = b""
        self.names_server = False  # it says itself who served it
        self.says_when = False  # it says when to try again
        self.pieces: bytes | None = None
        """What `rewrite` makes of it, for the next time."""

    def has_body(self, method: bytes) -> bool:
        """Will body bytes follow, given the method that it answers? (RFC 9112, 6.3)"""
        bodiless = method == b"HEAD" or self.status < 200 or self.status in (204, 304)
        return not bodiless and self.content_length != 0


class _Collector:
    """What llhttp tells while it reads one head."""

    __slots__ = ("fields", "on_header", "start")

    def __init__(self) -> None:
        self.fields: Fields = []
        self.start = b""  # a request's target, a response's reason
        add = self.fields.append

        def on_header(name: bytes, value: bytes) -> None:  # half as much work as a method
            add((name, value))

        self.on_header = on_header

    def on_url(self, url: bytes) -> None:
        self.start += url

    def on_status(self, reason: bytes) -> None:
        self.start += reason


H = TypeVar("H", RequestHead, ResponseHead)


@lru_cache(maxsize=1024)
def _not_kept(name: bytes) -> bool:
    """Is the value of such a header said once only, or is it somebody's credentials?"""
    return _NOT_KEPT.search(name) is not None


class _Known(dict[bytes, H]):
    """Heads by their bytes. What is said once only is not worth a place: ids, and the boundaries that clients invent
    for each form. And what is secret is not kept for longer than its request takes."""

    def learn(self, raw: bytes, head: H) -> None:
        """Remember it, if it may come again."""
        if len(raw) > KNOWN_SIZE:
            return
        for _, name, value in head.headers:
            if _not_kept(name) or (name == b"content-type" and b"boundary" in value.lower()):
                return
        if len(self) >= KNOWN:
            self.clear()  # those that do come again are soon back
        self[raw] = head


_requests = _Known[RequestHead]()
_responses = _Known[ResponseHead]()


def parse_request(raw: bytes, most: int = MAX_HEADERS) -> RequestHead:
    """Read one request head with up to `most` headers, the same at each call: `raw` ends with its empty line. An unfit
    one raises the ClusterError to answer with."""
    head = _requests.get(raw)
    if head is None:
        head = _read_request(raw, most)
        _requests.learn(raw, head)
    return head


def parse_response(raw: bytes) -> ResponseHead:
    """Read one response head, `raw` up to and including the empty line. BadResponse if it is none."""
    head = _responses.get(raw)
    if head is None:
        head = _read_response(raw)
        _responses.learn(raw, head)
    return head


def _read_request(raw: bytes, most: int) -> RequestHead:
    collector = _Collector()
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
    head = RequestHead(method, target, http11, [])
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
    headers = head.headers
    for name, said in fields:
        lower, value = name.lower(), said.strip(b" \t")
        headers.append((name, lower, value))
        if lower in _REQUEST_JUDGES:
            _REQUEST_JUDGES[lower](head, value)
    if head.http11 and not head.host:
        raise BadRequest("a request needs a Host header")
    if head.chunked and head.content_length is not None:
        raise BadRequest("a request has either Content-Length or Transfer-Encoding, not both")
    # An upgrade counts only when Connection names it as well (RFC 9110, 7.8), and here only without a body.
    head.websocket = (
        head.websocket and b"upgrade" in head.nominated and head.method == b"GET" and head.http11 and not head.has_body
    )


@lru_cache(maxsize=1024)
def _is_host(value: bytes) -> bool:
    match = _HOST.fullmatch(value)
    if match is None or int(match[2] or 0) > 65535:
        return False
    return match[1] is None or _is_ipv6(match[1].decode())


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _host(head: RequestHead, value: bytes) -> None:
    if head.host:
        raise BadRequest("a request has one Host header, not several")
    if not _is_host(value):
        raise BadRequest("the Host header is not a host name or address with an optional port")
    head.host = value


def _is_length(value: bytes) -> bool:
    return value.isdigit() and len(value) <= 18


def _content_length(head: RequestHead, value: bytes) -> None:
    if head.content_length is not None or not _is_length(value):
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


_REQUEST_JUDGES: dict[bytes, Callable[[RequestHead, bytes], None]] = {
    b"host": _host,
    b"content-length": _content_length,
    b"transfer-encoding": _transfer_encoding,
    b"connection": _connection,
    b"expect": _expect,
    b"upgrade": _upgrade,
    b"x-request-id": _request_id,
}


@lru_cache(maxsize=1024)
def tokens_of(value: bytes) -> frozenset[bytes]:
    """The tokens of a comma-separated header value, in lower case."""
    return frozenset(token.strip(b" \t") for token in value.lower().split(b","))


def _read_response(raw: bytes) -> ResponseHead:
    collector = _Collector()
    parser = httptools.HttpResponseParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadResponse(str(error)) from None
    if not raw.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")):
        raise BadResponse("neither HTTP/1.0 nor HTTP/1.1")
    headers: Headers = []
    head = ResponseHead(parser.get_status_code(), collector.start, raw.startswith(b"HTTP/1.1 "), headers)
    for name, said in collector.fields:
        lower, value = name.lower(), said.strip(b" \t")
        headers.append((name, lower, value))
        if lower in _RESPONSE_JUDGES:
            _RESPONSE_JUDGES[lower](head, value)
    if not _REASON.fullmatch(head.reason):
        raise BadResponse("control characters in the reason phrase")
    if not 100 <= head.status <= 599:
        raise BadResponse(f"status {head.status}")
    if head.chunked:
        head.content_length = None  # chunked beats a length (RFC 9112, 6.3)
    return head


def may_become_response(begun: bytes) -> bool:
    """Can more bytes still make a response of `begun`, which has no empty line yet?"""
    return b"HTTP/1.".startswith(begun[:7]) and begun.count(b"\n") == begun.count(b"\r\n")


def _response_length(head: ResponseHead, value: bytes) -> None:
    if not _is_length(value):
        raise BadResponse("Content-Length is not a number")
    head.content_length = int(value)


def _response_encoding(head: ResponseHead, value: bytes) -> None:
    if value.lower() != b"chunked":
        raise BadResponse("Transfer-Encoding is not chunked")
    head.chunked = True


def _response_connection(head: ResponseHead, value: bytes) -> None:
    head.nominated |= tokens_of(value)
    head.keep_alive = b"close" not in head.nominated and (head.http11 or b"keep-alive" in head.nominated)


def _response_upgrade(head: ResponseHead, value: bytes) -> None:
    head.upgrade = value


def _retry_after(head: ResponseHead, _: bytes) -> None:
    head.says_when = True


def _served_by(head: ResponseHead, _: bytes) -> None:
    head.names_server = True


_RESPONSE_JUDGES: dict[bytes, Callable[[ResponseHead, bytes], None]] = {
    b"content-length": _response_length,
    b"transfer-encoding": _response_encoding,
    b"connection": _response_connection,
    b"upgrade": _response_upgrade,
    b"x-served-by": _served_by,
    b"retry-after": _retry_after,
}
