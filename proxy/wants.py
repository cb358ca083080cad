"""Which model a request wants, read off its method and target. Pure; a body is never looked at.

    /v1/models/NAME[/versions/N][/…][:…]                 as TensorFlow Serving's REST API names it
    /classify?model=NAME[&version=N], POST /?model=…     as ours does; without a name it is for the cluster to say

NAME ends at the next `/` or `:` and is percent-decoded after that, so `/v1/models/a%2Fb:predict` wants the model `a/b`.
What makes no sense as a version is not one: the worker says what is wrong with it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from muster.wire import CLASSIFY

CACHED = 512
"""Bytes. What longer targets want is worked out each time: the cache must not grow large on anybody's wish."""

_MODEL = re.compile(rb"/v1/models/([^/:?]+)(?:/versions/([0-9]{1,18})(?![^/:?]))?", re.IGNORECASE)
_VERSION = re.compile(rb"[0-9]{1,18}")
_CLASSIFY: Final = (CLASSIFY.encode(), b"/")


class Want(NamedTuple):
    """What a worker has to have to be of use to a request; as it stands, nothing."""

    model: str | None = None
    version: int | None = None
    unnamed: bool = False
    """It needs a model and does not say which: the only one that there is, or the one called `default`."""
    grpc: bool = False
    """It is spoken over gRPC."""


ANY: Final = Want()


def wanted(method: bytes, target: bytes) -> Want:
    """What the request needs."""
    if len(target) > CACHED:
        return _wanted(method == b"POST", target)
    return _remembered(method == b"POST", target)


def _wanted(posts: bool, target: bytes) -> Want:
    path, _, query = target.partition(b"?")
    if path in _CLASSIFY:
        return _of_query(query, posts=posts)
    match = _MODEL.match(path)
    if match is None:
        return ANY
    name, version = match.groups()
    return Want(_text(unquote_to_bytes(name)), None if version is None else int(version))


_remembered = lru_cache(maxsize=1024)(_wanted)


def _of_query(query: bytes, *, posts: bool) -> Want:
    asked: dict[bytes, bytes] = {}
    for pair in query.split(b"&"):
        key, _, value = pair.replace(b"+", b" ").partition(b"=")
        asked.setdefault(unquote_to_bytes(key), unquote_to_bytes(value))
    name, version = asked.get(b"model"), asked.get(b"version", b"")
    number = int(version) if _VERSION.fullmatch(version) else None
    if name is None:
        return Want(None, number, unnamed=True) if posts else ANY
    return Want(_text(name), number)


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
