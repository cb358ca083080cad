"""P2P: clients that talk to a worker themselves. Here they learn an address, or are redirected before they send a body.

The choice is the roster's next worker, so those who ask for addresses are spread as evenly as those who are proxied.
Only addresses from the registry are ever named.

    GET /                            the HTTP address of a worker, for a request that names no model
    GET /?model=NAME[&version=N]     of one that has the model
    GET /?grpc[&model=NAME]          the gRPC address of one that speaks it
    any /p2p/PATH                    307 to PATH at a worker that can serve it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from discovery.worker_json import to_json
from muster.errors import BadRequest, Forbidden
from muster.values import Worker
from proxy.roster import Roster
from proxy.seats import Seat
from proxy.wants import Want, wanted

MAX_ALTERNATES = 8
KNOWN = 2048  # workers whose description is remembered
_NEVER_STORE = {"Cache-Control": "no-store", "Vary": "Accept"}


def json_answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`value` as JSON, ended by a newline, because people read it in a terminal."""
    text = json.dumps(value) + "\n"
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


class PeerToPeer:
    """Hands out addresses, unless that is switched off."""

    def __init__(self, roster: Roster, *, enabled: bool, ttl: float) -> None:
        self._roster = roster
        self._enabled = enabled
        self._ttl = ttl
        self._known: dict[str, _Told] = {}

    def address(self, target: str, *, grpc: bool, as_json: bool) -> web.Response:
        """A worker's `host:port` and a newline; or JSON with alternates and the time (seconds) it is good for.

        `target` is the path and query asked with: what could be posted there is what the worker shall be able to do.
        """
        self._check()
        seat, want = self._seat(wanted(b"POST", target.encode())._replace(grpc=grpc))
        worker = seat.worker
        if not as_json:
            address = worker.grpc_address if grpc else worker.address
            return web.Response(text=f"{address}\n", headers=_NEVER_STORE)
        others = [self._told(other.worker) for other in self._roster.others(seat, want, most=MAX_ALTERNATES)]
        first = self._told(worker)
        alternates = ", ".join([other.address for other in others])
        workers = ", ".join([first.whole, *(other.whole for other in others)])
        text = (
            f'{first.whole[:-1]}, "url": {first.url}, "alternates": [{alternates}], "workers": [{workers}], '
            f'"ttl": {json.dumps(self._ttl)}}}\n'
        )
        return web.Response(text=text, headers=_NEVER_STORE, content_type="application/json")

    def redirect(self, method: str, target: str) -> web.Response:
        """307 to the same request at a worker. `target` is the raw path and query behind `/p2p`."""
        self._check()
        target = target if target.startswith("/") else "/" + target
        location = self._roster.next(wanted(method.encode(), target.encode())).worker.url + target
        return web.Response(status=307, text=location + "\n", headers={"Location": location, **_NEVER_STORE})

    def _told(self, worker: Worker) -> _Told:
        """How it is described. It is named in very many answers, and changes seldom."""
        told = self._known.get(worker.id)
        if told is None or told.worker is not worker:
            if len(self._known) >= KNOWN:
                self._known.clear()
            told = self._known[worker.id] = _Told(worker)
        return told

    def _seat(self, want: Want) -> tuple[Seat, Want]:
        """The next worker for whoever wants an address. It need not be clear yet which model it is for."""
        try:
            return self._roster.next(want), want
        except BadRequest:
            want = Want(grpc=want.grpc)
            return self._roster.next(want), want

    def _check(self) -> None:
        if not self._enabled:
            raise Forbidden("the operator of this proxy switched P2P off; send your request to the proxy itself")


class _Told:
    """A worker as JSON texts: where it is, and what it has, as `discovery.worker_json` says it."""

    __slots__ = ("address", "url", "whole", "worker")

    def __init__(self, worker: Worker) -> None:
        told = to_json(worker)
        self.worker = worker
        self.address = json.dumps(worker.address)
        self.url = json.dumps(worker.url)
        self.whole = json.dumps(
            {
                "address": worker.address,
                "grpc": worker.grpc_address,
                "models": told["models"],
                "versions": told["versions"],
            }
        )
