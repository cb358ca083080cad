"""What aiohttp serves: addresses for P2P, health, roster, metrics, dashboard. Requests for workers never come here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric

from muster.errors import ClusterError, Draining, MethodNotAllowed, NotFound, NoWorkers
from muster.together import Together
from muster.wire import HEALTHZ, METRICS, P2P, READYZ, WORKERS
from proxy import metrics, pages
from proxy.metrics import View
from proxy.p2p import PeerToPeer, json_answer
from proxy.siblings import Siblings, Told

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
    """The handlers, and what they look at: `view` and `siblings` are set before the first request comes."""

    view: View
    siblings: Siblings | None = None

    def __init__(self, p2p: PeerToPeer) -> None:
        self._p2p = p2p
        self._page, self._policy = pages.dashboard()
        self._roster = Together(self._make_roster)
        self._metrics = Together(self._make_metrics)

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
        return json_answer(await self._roster.get(), headers={"Cache-Control": "no-store"})

    async def _make_roster(self) -> dict[str, Any]:
        told = pages.roster_json(self.view)
        if self.siblings is not None:
            others = await self.siblings.ask()
            told = pages.joint_roster({self.siblings.number: told} | {n: others[n]["roster"] for n in others})
        return told

    def tell(self) -> Told:
        """All that this process has to say, for its siblings."""
        return {"roster": pages.roster_json(self.view), "metrics": metrics.plain(self._families())}

    def _families(self) -> Iterator[Metric]:
        """This process's."""
        yield from metrics.families(self.view)
        if self.siblings is not None:
            yield metrics.starts(self.siblings.place.starts)

    async def healthz(self, request: web.Request) -> web.Response:
        """Alive."""
        return json_answer({"status": "alive"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Has at least one worker, and is not about to stop. That the registry is away is said, and no reason to send
        nobody here: the last snapshot stays in force."""
        commons, prober = self.view.commons, self.view.prober
        if commons.draining:
            raise Draining("this proxy is about to stop")
        serving = sum(not seat.worker.empty for seat in commons.roster.seats)
        if not serving:
            raise NoWorkers("no worker is listed that has a model")
        stale = {"registry": "stale", "registry_age": self.view.registry.contact_age} if prober.stale else {}
        return json_answer({"status": "ready", "workers": serving, **stale})

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus."""
        return web.Response(body=await self._metrics.get(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _make_metrics(self) -> bytes:
        families: Iterable[Metric] = self._families()
        if self.siblings is not None:
            others = await self.siblings.ask()
            told = {self.siblings.number: metrics.plain(families)} | {n: others[n]["metrics"] for n in others}
            families = [*metrics.merged(told), metrics.processes(len(told), self.siblings.place.of)]
        return metrics.text(families)
