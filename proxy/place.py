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

READY, LEAVING, COVER, UNCOVER = b"ready", b"leaving", b"cover", b"uncover"
"""What goes over the line between parent and child, a line each: two upward, two with a number downward."""


@dataclass(frozen=True, slots=True)
class Place:
    """Descriptors are inherited: `listeners` of all siblings by their numbers, and the `line` to the parent."""

    number: int
    of: int
    listeners: tuple[tuple[int, ...], ...]
    line: int
    directory: str
    """A folder that only we can look into, where siblings find each other."""
    grpc_port: int

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
            replay_total=settings.replay_total // self.of,
            max_connections=-(-settings.max_connections // self.of),
            max_connections_per_peer=-(-settings.max_connections_per_peer // self.of),
        )

    def listener(self, number: int) -> list[socket.socket]:
        """New sockets for the listeners of the sibling with that number."""
        return [_duplicate(descriptor) for descriptor in self.listeners[number]]


def _duplicate(descriptor: int) -> socket.socket:
    original = socket.socket(fileno=descriptor)
    try:
        return original.dup()
    finally:
        original.detach()
