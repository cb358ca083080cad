"""What the heads of requests and of responses have in common: how their fields are read, and which are remembered.

llhttp (the parser inside Node and aiohttp) reads a head in its strict mode. What it lets through and a proxy must not
is refused by `request_heads` and `response_heads`, because two parsers that disagree about where a request ends are how
requests are smuggled. `rewrite` puts the heads for the other side together. Pure: bytes in, values out.

A parse depends on the bytes of the head and on nothing else, and what it gives is never changed. Who keeps a connection
tends to say the same again, so heads are remembered by their bytes, all of them: bounded, and only those that may come
again and hold no credentials (`Known`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol, TypeVar

Headers = list[tuple[bytes, bytes, bytes]]
"""Name as it was spelled, name in lower case, value without the white space around it."""
Fields = list[tuple[bytes, bytes]]
"""Name and value as they were sent."""

KNOWN = 512  # heads that are remembered, of requests and of responses each
KNOWN_SIZE = 1024  # bytes of the longest of them

_NOT_KEPT = re.compile(rb"x-request-id|auth|cookie|token|secret|session|passw|key")


class Head(Protocol):
    """Of a request or a response."""

    headers: Headers


H = TypeVar("H", bound=Head)


class Collector:
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
        """A piece of the target."""
        self.start += url

    def on_status(self, reason: bytes) -> None:
        """A piece of the reason."""
        self.start += reason


def judge(head: H, fields: Fields, judges: Mapping[bytes, Callable[[H, bytes], None]]) -> None:
    """Note each field in the head, and have those judged for whose name, in lower case, there is a judge."""
    headers = head.headers
    for name, said in fields:
        lower, value = name.lower(), said.strip(b" \t")
        headers.append((name, lower, value))
        if lower in judges:
            judges[lower](head, value)


@lru_cache(maxsize=1024)
def _not_kept(name: bytes) -> bool:
    """Is the value of such a header said once only, or is it somebody's credentials?"""
    return _NOT_KEPT.search(name) is not None


class Known(dict[bytes, H]):
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


@lru_cache(maxsize=1024)
def tokens_of(value: bytes) -> frozenset[bytes]:
    """The tokens of a comma-separated header value, in lower case."""
    return frozenset(token.strip(b" \t") for token in value.lower().split(b","))
