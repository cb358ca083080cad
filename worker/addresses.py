"""Where this worker listens, and where others reach it."""

from __future__ import annotations

import ipaddress
import socket

from discovery.endpoints import split


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to `host`:`port`, where port 0 takes a free one. Raises OSError, one sentence."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock


def advertised(advertise: str, listens: tuple[str, int]) -> tuple[str, int]:
    """Host and port to announce: what `advertise` says, for the rest where the worker listens.

    Who listens on every address announces the one that leads out of this machine. Raises ValueError, one sentence.
    """
    try:
        host, port = split(advertise)
    except ValueError as error:
        raise ValueError(f"--advertise {advertise!r}: {error}") from None
    return host or _reachable(listens[0]), port or listens[1]


def _reachable(host: str) -> str:
    if not ipaddress.ip_address(host).is_unspecified:
        return host
    family, elsewhere = (socket.AF_INET, "192.0.2.1") if "." in host else (socket.AF_INET6, "2001:db8::1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))  # sends nothing: it only asks the system which way it would go
        except OSError:
            return "127.0.0.1" if "." in host else "::1"
        return str(probe.getsockname()[0])
