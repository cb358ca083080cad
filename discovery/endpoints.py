"""Hosts and ports: reading them from text, and judging those that somebody else wrote into a registry. Pure."""

from __future__ import annotations

import ipaddress
import re

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)  # of a host: containers have underscores
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\[\]:]*))(?::(?P<port>\d{1,5}))?")


def is_label(text: str) -> bool:
    """Is it one label of RFC 1123: letters, digits and inner hyphens, at most 63? Service names are."""
    return bool(_LABEL.fullmatch(text))


def is_host(text: str) -> bool:
    """Is it an IP address or a host name? What ends in a number, but is no address, is neither: resolvers read `127.1`
    and `0x7f000001` as addresses, and nobody who checks them does."""
    try:
        return ipaddress.ip_address(text) is not None and "%" not in text
    except ValueError:
        labels = text.removesuffix(".").split(".")
        return len(text) <= 253 and all(map(_NAME.fullmatch, labels)) and not _NUMBER.fullmatch(labels[-1])


def is_destination(host: str) -> bool:
    """May requests be sent there because a registry says so?

    Not to addresses that cannot be a worker's: unspecified, multicast, link-local (cloud metadata lives there),
    reserved. Everything that a worker could have is allowed: private and loopback addresses are the usual case.
    """
    if not is_host(host):
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_destination(str(address.ipv4_mapped))
    elif address.is_reserved:  # of IPv6 that would include loopback
        return False
    return not (address.is_unspecified or address.is_multicast or address.is_link_local)


def is_port(number: object) -> bool:
    """Is it a TCP port to connect to, 1 to 65535?"""
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= 65535


def split(text: str) -> tuple[str | None, int | None]:
    """`host:port`, `[::1]:port`, `host` or `:port` taken apart. ValueError, one sentence, if it is nothing of these."""
    match = _ADDRESS.fullmatch(text)
    host = (match["v6"] if match["v6"] is not None else match["host"]) if match else ""
    if not match or (host and not is_host(host)) or (match["v6"] is not None and ":" not in host):
        raise ValueError(f"{text!r} is not HOST:PORT (an IPv6 address goes in brackets)")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not is_port(port):
        raise ValueError(f"{text!r} names a port that is not between 1 and 65535")
    return host or None, port


def join(host: str, port: int) -> str:
    """`host:port` as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
