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
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # every address includes those of IPv4
            sock.bind(address)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock


def everywhere() -> str:
    """The host that stands for every address of this machine, those of IPv6 included if it has any."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return "0.0.0.0"  # noqa: S104  # it is what is asked for
    return "::"


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
    # Where both are there, more can reach the older.
    return _way_out(socket.AF_INET) or (":" in host and _way_out(socket.AF_INET6)) or "127.0.0.1"


def _way_out(family: socket.AddressFamily) -> str | None:
    """The address from which this machine speaks to others, if it does in this family."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # This sends nothing: it only asks the system which way it would go.
            probe.connect(("192.0.2.1" if family == socket.AF_INET else "2001:db8::1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])
