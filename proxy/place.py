"""A proxy process's place among its siblings: what its parent gave it, in an environment variable.

The parent (`processes`) holds listeners for each of its children, all on the same port; the kernel shares new
connections out among those that listen. A child listens with its own, and with those of a sibling for as long as that
one does not: nothing is lost in a queue that nobody serves, however a child ends.
"""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.settings import ProxySettings

VARIABLE = "MUSTER_PROXY_PLACE"


@dataclass(frozen=True, slots=True)
class Place:
    """Descriptors are inherited: `listeners` of all siblings by their numbers, and the `link` to the parent."""

    number: int
    of: int
    listeners: tuple[tuple[int, ...], ...]
    link: int
    grpc_port: int
    starts: dict[str, int]
    """How often a process of this number was started, by the reason: `first`, or what became of the one before."""

    def to_text(self) -> str:
        """For the environment."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_environment(environ: Mapping[str, str]) -> Place | None:
        """The place of this process, None if it is alone."""
        if VARIABLE not in environ:
            return None
        told = json.loads(environ[VARIABLE])
        return Place(**told | {"listeners": tuple(map(tuple, told["listeners"]))})

    def share(self, settings: ProxySettings) -> ProxySettings:
        """The settings with this process's part of what all processes may have together."""
        return dataclasses.replace(
            settings,
            grpc_port=self.grpc_port,
            replay_total=self.part(settings.replay_total),
            queue=self.part(settings.queue),
            max_connections=max(1, self.part(settings.max_connections)),
            max_connections_per_peer=max(1, self.part(settings.max_connections_per_peer)),
        )

    def part(self, total: int) -> int:
        """This process's part of a total. All parts together are the total."""
        return part(total, self.number, self.of)

    def listener(self, number: int) -> list[socket.socket]:
        """New sockets for the listeners of the sibling with that number."""
        return [_duplicate(descriptor) for descriptor in self.listeners[number]]


def part(total: int, number: int, of: int) -> int:
    """The part of `number` (from 0) when `of` share a whole number of things: all parts together are the total."""
    return total // of + (number < total % of)


def _duplicate(descriptor: int) -> socket.socket:
    original = socket.socket(fileno=descriptor)
    try:
        return original.dup()
    finally:
        original.detach()
