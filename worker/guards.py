"""Requests that aiohttp lets through and a careful server does not: odd versions, targets, hosts and framings.

Two servers that read the same bytes differently are how requests are smuggled, so what is ambiguous is refused and the
connection closed.
"""

from __future__ import annotations

import re

from aiohttp import web

from muster.errors import BadRequest

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class Ambiguous(BadRequest):
    """Nobody knows what the rest of this connection means, so it must be closed."""


def check_head(request: web.BaseRequest) -> None:
    """Raises Ambiguous if the head of `request` is not one that every server reads alike."""
    version = tuple(request.version)
    if version not in ((1, 0), (1, 1)):
        raise Ambiguous("only HTTP/1.0 and HTTP/1.1 are spoken here")
    if not request.raw_path.startswith("/"):
        raise Ambiguous("the target of a request must be a path")
    if version == (1, 0) and "Transfer-Encoding" in request.headers:
        raise Ambiguous("HTTP/1.0 has no Transfer-Encoding")
    if any(coding.lower() != "chunked" for coding in request.headers.getall("Transfer-Encoding", [])):
        raise Ambiguous("the only Transfer-Encoding that is read here is chunked")
    hosts = request.headers.getall("Host", [])
    if len(hosts) > 1 or (version == (1, 1) and not hosts):
        raise Ambiguous("a request names one Host")
    if any(host and not _HOST.fullmatch(host) for host in hosts):
        raise Ambiguous("the Host is neither a name nor an address")
