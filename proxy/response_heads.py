"""Response heads: parsed strictly and judged. Pure: bytes in, values out.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1 framing).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import httptools

from muster.fields import is_length
from proxy.heads import Collector, Headers, Known, judge, tokens_of

_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class BadResponse(Exception):
    """What a worker sent is not an HTTP response."""


class ResponseHead:
    """One response, up to its body; shared, so nobody changes it. `content_length`: None if the worker did not say."""

    __slots__ = ("chunked", "content_length", "headers", "http11", "keep_alive", "names_server", "nominated", "pieces",
                 "reason", "says_when", "status", "upgrade")  # fmt: skip

    def __init__(self, status: int, reason: bytes, http11: bool) -> None:
        self.status = status
        self.reason = reason
        self.http11 = http11
        self.headers: Headers = []
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


_known = Known[ResponseHead]()


def parse_response(raw: bytes) -> ResponseHead:
    """Read one response head, `raw` up to and including the empty line. BadResponse if it is none."""
    head = _known.get(raw)
    if head is None:
        head = _read_response(raw)
        _known.learn(raw, head)
    return head


def _read_response(raw: bytes) -> ResponseHead:
    collector = Collector()
    parser = httptools.HttpResponseParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadResponse(str(error)) from None
    if not raw.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")):
        raise BadResponse("neither HTTP/1.0 nor HTTP/1.1")
    head = ResponseHead(parser.get_status_code(), collector.start, raw.startswith(b"HTTP/1.1 "))
    judge(head, collector.fields, _JUDGES)
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


def _content_length(head: ResponseHead, value: bytes) -> None:
    if not is_length(value):
        raise BadResponse("Content-Length is not a number")
    head.content_length = int(value)


def _transfer_encoding(head: ResponseHead, value: bytes) -> None:
    if value.lower() != b"chunked":
        raise BadResponse("Transfer-Encoding is not chunked")
    head.chunked = True


def _connection(head: ResponseHead, value: bytes) -> None:
    head.nominated |= tokens_of(value)
    head.keep_alive = b"close" not in head.nominated and (head.http11 or b"keep-alive" in head.nominated)


def _upgrade(head: ResponseHead, value: bytes) -> None:
    head.upgrade = value


def _retry_after(head: ResponseHead, _: bytes) -> None:
    head.says_when = True


def _served_by(head: ResponseHead, _: bytes) -> None:
    head.names_server = True


_JUDGES: dict[bytes, Callable[[ResponseHead, bytes], None]] = {
    b"content-length": _content_length,
    b"transfer-encoding": _transfer_encoding,
    b"connection": _connection,
    b"upgrade": _upgrade,
    b"x-served-by": _served_by,
    b"retry-after": _retry_after,
}
