"""What aiohttp serves: addresses for P2P, health, roster, metrics, dashboard. Requests for workers never come here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from discovery.registry import Registry
from muster.errors import ClusterError, Draining, MethodNotAllowed, NotFound, NoWorkers
from muster.wire import HEALTHZ, METRICS, P2P, READYZ, WORKERS
from proxy import pages
from proxy.commons import Commons
from proxy.p2p import PeerToPeer, json_answer
from proxy.probes import Prober

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
    return json_answer(error.to_json(), status=error.status, headers=error.headers())


async def _unnamed(request: web.Request, response: web.StreamResponse) -> None:
    """Do not tell attackers which versions run here."""
    response.headers["Server"] = "muster"


class HttpApi:
    """The handlers, and what they look at. `commons` and `prober` are set before the first request comes."""

    commons: Commons
    prober: Prober

    def __init__(self, registry: Registry, p2p: PeerToPeer) -> None:
        self._registry = registry
        self._p2p = p2p
        self._page, self._policy = pages.dashboard()

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[errors_as_json])
        app.on_response_prepare.append(_unnamed)
        app.router.add_get("/", self.root)
        app.router.add_route("*", P2P, self.redirect)
        app.router.add_route("*", P2P + r"/{rest:[\s\S]*}", self.redirect)
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
        grpc = request.query.get("grpc", "0") not in ("0", "false")
        return self._p2p.address(request.raw_path, grpc=grpc, as_json="application/json" in accept)

    async def redirect(self, request: web.Request) -> web.Response:
        """The same request, to a worker."""
        return self._p2p.redirect(request.method, request.raw_path[len(P2P) :])

    async def workers(self, request: web.Request) -> web.Response:
        """The roster."""
        return json_answer(pages.roster_json(self.commons, self._registry), headers={"Cache-Control": "no-store"})

    async def healthz(self, request: web.Request) -> web.Response:
        """Alive."""
        return json_answer({"status": "alive"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Has at least one worker, and is not about to stop. A registry that is away is told, and no reason to go."""
        if self.commons.draining:
            raise Draining("this proxy is about to stop")
        serving = sum(not seat.worker.empty for seat in self.commons.roster.seats)
        if not serving:
            raise NoWorkers("no worker is listed that has a model")
        # A registry that is away is no reason to send nobody here: the last snapshot stays in force.
        stale = {"registry": "stale", "registry_age": self._registry.contact_age} if self.prober.stale else {}
        return json_answer({"status": "ready", "workers": serving, **stale})

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus."""
        text = generate_latest(pages.metrics_registry(self.commons, self._registry))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})
