"""The head of a request, judged before aiohttp sees it. Pure: bytes in, a `Head` or a `ClusterError` out.

aiohttp's parser is lenient where a careful server is not: odd versions, targets, hosts, framings and upgrades. Two
servers that read the same bytes differently are how requests are smuggled, so what is ambiguous is refused and the
connection closed. RFC 9110 and 9112.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from muster.errors import BadRequest, HeadersTooLarge, MethodNotAllowed, VersionNotSupported
from muster.fields import is_host, is_length

MAX_HEADERS = 128
METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"})
"""Those that get as far as to a page, which says which it takes. Not CONNECT: nothing here is a tunnel."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"(%b) ([\x21-\x7e\x80-\xff]+) HTTP/(\d)\.(\d)" % _TOKEN)
_FIELD = re.compile(rb"(%b):([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
# What asks for another protocol is not for aiohttp, which would stop to read: no other is spoken here.
_UPGRADES = frozenset({b"upgrade", b"http2-settings"})


@dataclass(frozen=True, slots=True)
class Head:
    """A head that every server reads alike. `raw` is what aiohttp gets of it."""

    raw: bytes
    length: int  # of a body that is not `chunked`
    chunked: bool


def check_head(raw: bytes) -> Head:
    """The head `raw`, up to and with its empty line. Raises the ClusterError to answer with before closing."""
    lines = raw[:-4].split(b"\r\n")
    http11 = _check_line(lines[0])
    if len(lines) > MAX_HEADERS + 1:
        raise HeadersTooLarge(f"more than {MAX_HEADERS} headers")
    fields: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadRequest("a header is not a name, a colon and a value")
        fields.setdefault(match[1].lower(), []).append(match[2].strip(b" \t"))
    _check_host(fields.get(b"host", []), http11)
    chunked = _is_chunked(fields.get(b"transfer-encoding"), http11)
    length = _length(fields.get(b"content-length"))
    if chunked and length is not None:
        raise BadRequest("a request has either Content-Length or Transfer-Encoding, not both")
    if not _UPGRADES.isdisjoint(fields):
        kept = [line for line in lines[1:] if line.partition(b":")[0].lower() not in _UPGRADES]
        raw = b"\r\n".join([lines[0], *kept, b"", b""])
    return Head(raw, length or 0, chunked)


def _check_line(line: bytes) -> bool:
    """Is it HTTP/1.1? If not it is 1.0."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadRequest("a request begins with a method, a target and the version of HTTP, one space between them")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise VersionNotSupported("only HTTP/1.1 and HTTP/1.0 are spoken here")
    if method not in METHODS:
        allow = ", ".join(sorted(each.decode() for each in METHODS))
        raise MethodNotAllowed(f"{method[:20].decode()} is not allowed", allow=allow)
    if target[:1] != b"/" or b"#" in target:
        raise BadRequest("the target of a request must be a path")
    return bool(minor == b"1")


def _check_host(hosts: list[bytes], http11: bool) -> None:
    if len(hosts) > 1 or (http11 and not hosts):
        raise BadRequest("a request names one Host")
    if hosts and not is_host(hosts[0]):
        raise BadRequest("the Host is neither a name nor an address")


def _is_chunked(codings: list[bytes] | None, http11: bool) -> bool:
    if codings is None:
        return False
    if not http11 or len(codings) > 1 or codings[0].lower() != b"chunked":
        raise BadRequest("the only Transfer-Encoding that is read here is chunked, once, in HTTP/1.1")
    return True


def _length(lengths: list[bytes] | None) -> int | None:
    if lengths is None:
        return None
    if len(lengths) > 1 or not is_length(lengths[0]):
        raise BadRequest("Content-Length has to be one decimal number")
    return int(lengths[0])
