"""Requests for the proxy itself (pages, P2P, metrics): which they are, and their way to the aiohttp application."""

from __future__ import annotations

from muster.errors import ClusterError
from muster.wire import HEALTHZ, METRICS, P2P, READYZ, WORKERS
from proxy.dispatch import Failure
from proxy.exchange import Exchange
from proxy.framing import Buffer
from proxy.heads import RequestHead
from proxy.rewrite import request_to_worker

_PATHS = frozenset(path.encode() for path in (P2P, WORKERS, HEALTHZ, READYZ, METRICS))
_PREFIX = P2P.encode() + b"/"


def is_own(head: RequestHead) -> bool:
    """Is the request for the proxy itself? Everything else is for a worker."""
    path = head.path
    if path == b"/":
        return head.method in (b"GET", b"HEAD")
    return path in _PATHS or path.startswith(_PREFIX)


class OwnExchange(Exchange):
    """A request for the proxy itself. The application never sees a body: none of its answers depends on one."""

    __slots__ = ()

    wants_body = False
    KEY = "the proxy itself"

    def start(self, data: Buffer, *, complete: bool) -> None:
        """Hand the request to the application."""
        self.body_done = True
        connection = self._commons.pool.take(self.KEY) or self._commons.pool.connect_inside(self.KEY, self._commons.app)
        self.connection = connection
        connection.begin(self, self.head.method, websocket=False)
        connection.transport.write(
            request_to_worker(self.head, self._client.peer, self.request_id, expect=False, body=False)
        )

    def on_body(self, data: Buffer) -> None:
        """Nobody wants it."""

    def on_body_end(self) -> None:
        """Nobody waits for it."""

    def _failed(self, failure: Failure) -> None:
        self._end(failed=None)
        self._client.on_failed(ClusterError("the proxy could not answer"), answered=False)
