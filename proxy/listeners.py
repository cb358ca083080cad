"""Sockets for several processes to listen on, all on one port: the kernel shares new connections out among them."""

from __future__ import annotations

import os
import socket


def bind(host: str, port: int, count: int) -> list[list[socket.socket]]:
    """`count` groups of sockets, one socket for each address of the host, all on the same port. OSError if taken."""
    groups: list[list[socket.socket]] = [[] for _ in range(count)]
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in dict.fromkeys(found):
        place = (address[0], port or address[1], *address[2:])
        try:
            with _socket(family) as alone:  # whoever shares a port does not notice that others do, who are not ours
                alone.bind(place)
                port = alone.getsockname()[1]
            for group in groups:
                sock = _socket(family)
                group.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind((address[0], port, *address[2:]))
        except OSError as error:
            for sock in [sock for group in groups for sock in group]:
                sock.close()
            raise cannot_listen(str(address[0]), place[1], error) from None
    return groups


def cannot_listen(host: str, port: int, error: OSError) -> OSError:
    """What the user is told when `error` came of binding."""
    number = error.errno or 0  # negative where a name was not found
    why = os.strerror(number).lower() if number > 0 else error.strerror or str(error)
    return OSError(f"cannot listen on {host} port {port}: {why}")


def _socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock
