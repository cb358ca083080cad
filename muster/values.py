"""The nouns every process in the cluster shares.

A worker announces itself as a `Worker`; a registry hands out a `Snapshot` of all of them.
Both are immutable: a new truth is a new value, and whoever holds the old one may keep reading it.
Nothing here does I/O, and nothing here imports from the rest of the project.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Worker:
    """One process that serves models, as it announced itself.

    `id` is unique in the cluster and new at every start, so a restarted worker is a new worker:
    what was believed about the old one does not stick to it.
    """

    id: str
    host: str
    port: int
    models: tuple[str, ...] | None = None
    """The models it has available at the moment. None: it does not say, and is taken to have every model."""
    versions: tuple[tuple[str, int], ...] = ()
    """The versions that it has available of those models, as pairs in rising order, as far as it says."""
    grpc_port: int | None = None
    version: str = ""
    """Version of the software it runs."""
    replay_safe: bool = False
    """It promises that a request sent twice does no harm, so a lost one may be sent to another worker."""
    capacity: int = 0
    """Requests it is willing to hold at once; 0 means it did not say."""
    weight: int = 1
    """Its share of the traffic, relative to the others."""

    @property
    def address(self) -> str:
        """`host:port` as it stands in a URL (an IPv6 address in brackets)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """`http://host:port`, without a trailing slash."""
        return f"http://{self.address}"

    @property
    def grpc_address(self) -> str | None:
        """`host:port` for gRPC, None if it does not speak it."""
        return None if self.grpc_port is None else f"{self.address.rpartition(':')[0]}:{self.grpc_port}"

    @property
    def empty(self) -> bool:
        """Does it say that it has no model at the moment? Then no request is any use to it."""
        return self.models == ()

    def serving(self, available: Mapping[str, Iterable[int]]) -> Worker:
        """The same worker when these versions of these models are what it has available."""
        pairs = {(name, version) for name, versions in available.items() for version in versions}
        return replace(self, models=tuple(available), versions=tuple(sorted(pairs)))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All workers fit to serve at one moment, in a stable order; `version` only tells two moments apart."""

    version: int
    workers: tuple[Worker, ...] = ()
    withdrawn: frozenset[str] = frozenset()
    """Ids of workers that are still there and asked for nothing new: they are missing above on purpose."""
