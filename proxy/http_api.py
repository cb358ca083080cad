"""What aiohttp serves: addresses for P2P, health, roster, metrics, the dashboard. Requests for workers never come here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from discovery.registry import Registry
from muster.errors import ClusterError, Draining, MethodNotAllowed, NotFound, NoWorkers
from muster.wire import HEALTHZ, METRICS, P2P, READYZ, WORKERS
from proxy import pages
from proxy.p2p import PeerToPeer
from proxy.relay import Relay

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error leaves with its status and one sentence."""
    try:
        return await handler(request)
    except ClusterError as error:
        return _answer(error)
    except web.HTTPMethodNotAllowed as error:
        allow = ", ".join(sorted(error.allowed_methods))
        return _answer(MethodNotAllowed(f"{request.method} is not allowed on {request.path}", allow=allow))
    except web.HTTPNotFound:
        return _answer(NotFound(f"there is nothing at {request.path}"))


def _answer(error: ClusterError) -> web.Response:
    return web.json_response(error.to_json(), status=error.status, headers=error.headers())


class HttpApi:
    """The handlers, and what they look at. `relay` is set before the first request comes."""

    relay: Relay

    def __init__(self, registry: Registry, p2p: PeerToPeer) -> None:
        self._registry = registry
        self._p2p = p2p
        self._page, self._policy = pages.dashboard()

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[errors_as_json])
        app.router.add_get("/", self.root)
        app.router.add_route("*", P2P, self.redirect)
        app.router.add_route("*", P2P + "/{rest:.*}", self.redirect)
        app.router.add_get(WORKERS, self.workers)
        app.router.add_get(HEALTHZ, self.healthz)
        app.router.add_get(READYZ, self.readyz)
        app.router.add_get(METRICS, self.metrics)
        return app

    async def root(self, request: web.Request) -> web.Response:
        """A worker's address; for browsers, the dashboard."""
        accept = request.headers.get("Accept", "")
        if "text/html" in accept:
            headers = {
                "Content-Security-Policy": self._policy,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Vary": "Accept",
            }
            return web.Response(text=self._page, content_type="text/html", headers=headers)
        return self._p2p.address(as_json="application/json" in accept)

    async def redirect(self, request: web.Request) -> web.Response:
        """The same request, to a worker."""
        return self._p2p.redirect(request.raw_path[len(P2P) :])

    async def workers(self, request: web.Request) -> web.Response:
        """The roster."""
        return web.json_response(pages.roster_json(self.relay, self._registry), headers={"Cache-Control": "no-store"})

    async def healthz(self, request: web.Request) -> web.Response:
        """Alive."""
        return web.json_response({"status": "alive"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Has at least one worker, and is not about to stop."""
        if self.relay.draining:
            raise Draining("this proxy is about to stop")
        if not self.relay.roster.seats:
            raise NoWorkers("no worker is listed")
        return web.json_response({"status": "ready", "workers": len(self.relay.roster.seats)})

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus."""
        text = generate_latest(pages.metrics_registry(self.relay, self._registry))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})
