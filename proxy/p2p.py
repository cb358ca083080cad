"""P2P: clients that talk to a worker themselves. Here they learn an address, or are redirected before they send a body.

The choice is the roster's next worker, so those who ask for addresses are spread as evenly as those who are proxied.
Only addresses from the registry are ever named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from muster.errors import Forbidden
from proxy.roster import Roster

MAX_ALTERNATES = 8
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

    def address(self, *, as_json: bool) -> web.Response:
        """A worker's `host:port` and a newline; or JSON with alternates and the time (seconds) it is good for."""
        self._check()
        seat = self._roster.next()
        if not as_json:
            return web.Response(text=seat.worker.address + "\n", headers=_NEVER_STORE)
        answer = {
            "address": seat.worker.address,
            "url": seat.worker.url,
            "alternates": [other.worker.address for other in self._roster.others(seat)[:MAX_ALTERNATES]],
            "ttl": self._ttl,
        }
        return json_answer(answer, headers=_NEVER_STORE)

    def redirect(self, target: str) -> web.Response:
        """307 to the same request at a worker. `target` is the raw path and query behind `/p2p`."""
        self._check()
        location = self._roster.next().worker.url + (target if target.startswith("/") else "/" + target)
        return web.Response(status=307, text=location + "\n", headers={"Location": location, **_NEVER_STORE})

    def _check(self) -> None:
        if not self._enabled:
            raise Forbidden("the operator of this proxy switched P2P off; send your request to the proxy itself")
