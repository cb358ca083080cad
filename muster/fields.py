"""Values of request headers that the proxy and the worker judge alike, lest they read one request differently. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address

_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[([0-9A-Fa-f:.]+)\])(?::(\d{1,5}))?")


def is_length(value: bytes) -> bool:
    """Is it a Content-Length?"""
    return value.isdigit() and len(value) <= 18


@lru_cache(maxsize=1024)
def is_host(value: bytes) -> bool:
    """Is it a Host: a name or an address, and a port or none?"""
    match = _HOST.fullmatch(value)
    if match is None or int(match[2] or 0) > 65535:
        return False
    try:
        return match[1] is None or bool(IPv6Address(match[1].decode()))
    except ValueError:
        return False
