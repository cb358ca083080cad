"""Requests for the proxy itself (pages, P2P, metrics): which they are, and their way to the aiohttp application."""

from __future__ import annotations

from muster.errors import ClusterError
from muster.framing import Buffer
from muster.values import Worker
from muster.wire import HEALTHZ, METRICS, P2P, READYZ, WORKERS
from proxy.attempt import Attempt
from proxy.dispatch import Failure
from proxy.exchange import Exchange
from proxy.health import Outcome
from proxy.request_heads import RequestHead
from proxy.response_heads import ResponseHead
from proxy.rewrite import request_to_worker
from proxy.seats import Seat

_PATHS = frozenset(path.encode() for path in (P2P, WORKERS, HEALTHZ, READYZ, METRICS))
_PREFIX = P2P.encode() + b"/"


def is_own(head: RequestHead) -> bool:
    """Is the request for the proxy itself? Everything else is for a worker."""
    path = head.path
    if path == b"/":
        return head.method in (b"GET", b"HEAD")
    return path in _PATHS or path.startswith(_PREFIX)


_OWN = Seat(Worker("the proxy itself", "", 0), 1)


class _Inside(Attempt):
    """At the application, which has no seat in the roster."""

    __slots__ = ()

    def end(self, outcome: Outcome, seconds: float) -> None:
        """There is nothing to give back."""


class OwnExchange(Exchange):
    """A request for the proxy itself. The application never sees a body: none of its answers depends on one."""

    __slots__ = ()

    wants_body = False

    def start(self, data: Buffer, *, complete: bool) -> None:
        """Hand the request to the application."""
        self.body_done = True
        self.attempt = attempt = _Inside(self._commons, self, _OWN, self.started)
        pool = self._commons.pool
        connection = pool.take(_OWN.worker.id) or pool.connect_inside(_OWN.worker.id, self._commons.app)
        self.connection = attempt.connection = connection
        connection.begin(attempt, self.head.method, websocket=False)
        connection.transport.write(
            request_to_worker(self.head, self._client.peer, self.request_id, expect=False, body=False)
        )

    def on_body(self, data: Buffer) -> None:
        """Nobody wants it."""

    def on_body_end(self) -> None:
        """Nobody waits for it."""

    def forsake(self, seat: Seat) -> None:
        """It is at no worker."""

    def _passed_over(self, attempt: Attempt, head: ResponseHead) -> bool:
        return False

    def _failed(self, attempt: Attempt, failure: Failure) -> None:
        self._give_up(ClusterError("the proxy could not answer"))

    def _added(self, head: ResponseHead) -> bytes:
        return b"X-Request-Id: %b\r\n" % self.request_id
