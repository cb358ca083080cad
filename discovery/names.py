"""Host names of workers, looked up so that one for which nobody answers holds up no other.

An event loop's own look-ups share a few threads, and one whose resolver is silent holds its thread for many seconds:
two or three such names, and no other is found any more. So each look-up has a thread of its own here, and a name has
one at a time, however many ask. A name is asked for anew each time, for workers move; but who was found before is not
waited for long: where a worker was is where it most likely is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

PATIENCE = 0.1
"""Seconds that a look-up may take before what it found the last time is good enough."""
MOST = 256
"""Names that are looked up at the same time, and that are remembered."""

Addresses = tuple[str, ...]
LookUp = Callable[[str], Addresses]


def look_up(name: str) -> Addresses:
    """Ask the system. It may take its time."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class Names:
    """What names were found to mean, and the look-ups under way. For one event loop."""

    def __init__(self, look_up: LookUp = look_up) -> None:
        self._look_up = look_up
        self._known: dict[str, Addresses] = {}
        self._asking: dict[str, tuple[float, asyncio.Future[Addresses | OSError]]] = {}  # since when, by the loop

    async def find(self, host: str) -> Addresses:
        """The addresses of `host`, one at least; its own if it is one. Raises OSError."""
        if is_address(host):
            return (host,)
        since, answer = self._asking.get(host) or self._ask(host)
        known = self._known.get(host)
        if known is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(since + PATIENCE):
                    await asyncio.shield(answer)
            return self._known.get(host, known)
        found = await asyncio.shield(answer)
        if isinstance(found, OSError):
            raise found
        return found

    def _ask(self, host: str) -> tuple[float, asyncio.Future[Addresses | OSError]]:
        if len(self._asking) >= MOST:
            raise OSError(f"too many names are being looked up to ask for {host}")
        loop = asyncio.get_running_loop()
        asked = self._asking[host] = (loop.time(), loop.create_future())

        def ask() -> None:
            found: Addresses | OSError
            try:
                found = self._look_up(host) or OSError(f"{host} has no address")
            except (OSError, ValueError) as error:  # ValueError: it is no name at all
                found = OSError(str(error))
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._answered, host, found)

        # Not one of a pool, and a daemon: nobody waits for it at the end either.
        try:
            threading.Thread(target=ask, name=f"looking up {host}", daemon=True).start()
        except RuntimeError as error:  # the system has no room for one: whoever asks later may be luckier
            del self._asking[host]
            raise OSError(f"{host} cannot be looked up: {error}") from None
        return asked

    def _answered(self, host: str, found: Addresses | OSError) -> None:
        _, answer = self._asking.pop(host)
        if not isinstance(found, OSError):  # a resolver that fails does not make anybody move
            self._known.pop(host, None)
            self._known[host] = found
            if len(self._known) > MOST:
                del self._known[next(iter(self._known))]
        answer.set_result(found)


class Resolver(AbstractResolver):
    """`names` for aiohttp's connections."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See `AbstractResolver`. Any family is good."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._names.find(host)
        ]

    async def close(self) -> None:
        """Nothing is open."""


def connector(names: Names) -> aiohttp.TCPConnector:
    """Connections of aiohttp that find their hosts by `names`. To be made in a running loop."""
    return aiohttp.TCPConnector(resolver=Resolver(names), use_dns_cache=False)


def is_address(host: str) -> bool:
    """Is it an IP address, so that there is nothing to look up?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
