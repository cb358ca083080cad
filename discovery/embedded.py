"""A registry in one process, for a machine without Consul: it speaks what our client uses of Consul's HTTP API.

    PUT /v1/agent/service/register[?replace-existing-checks=true]
    PUT /v1/agent/service/deregister/ID
    PUT /v1/agent/service/maintenance/ID?enable=true&reason=…
    PUT /v1/agent/check/pass/ID
    GET /v1/health/service/NAME[?index=N&wait=10s]

It differs from Consul in this: HTTP checks are kept and shown but not executed, the TTL judges; a query is held for
exactly its `wait`; one with an index that this registry never gave out, because it was restarted, is answered at once;
nothing is written to disk. Status codes and plain-text errors are those of current Consul.
It knows neither tokens nor TLS, so it belongs on loopback. Requests that a browser makes for a web page are refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from discovery.embedded_catalogue import Catalogue, Full
from discovery.embedded_payload import BadPayload, duration, service
from discovery.endpoints import join
from muster.lifetime import Stop, supervised

MAX_BODY = 512 * 1024  # bytes; thousands of versions
MAX_WAIT = 600.0  # seconds, and half of it where none is asked for; as in Consul


class _Api:
    """The handlers: they translate between HTTP and the catalogue, and wake whoever waits for news."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._news = asyncio.Event()
        self._told_index = catalogue.index

    def routes(self) -> list[web.RouteDef]:
        return [
            web.put("/v1/agent/service/register", self.register),
            web.put("/v1/agent/service/deregister/{id:.+}", self.deregister),
            web.put("/v1/agent/service/maintenance/{id:.+}", self.maintenance),
            web.put("/v1/agent/check/pass/{id:.+}", self.beat),
            web.get("/v1/health/service/{name}", self.health),
        ]

    async def register(self, request: web.Request) -> web.Response:
        try:
            definition = service(orjson.loads(await request.read()))
            replace = _switch(request, "replace-existing-checks", default=False)
            self._catalogue.register(definition, replace_checks=replace)
        except orjson.JSONDecodeError as error:
            return web.Response(status=400, text=f"Request decode error: {error}")
        except Full as error:
            return web.Response(status=429, text=str(error))
        self._wake()
        return web.Response()

    async def deregister(self, request: web.Request) -> web.Response:
        return self._told(request, self._catalogue.deregister(request.match_info["id"]), "service")

    async def maintenance(self, request: web.Request) -> web.Response:
        if "enable" not in request.query:
            raise BadPayload("Missing value for enable")
        enable = _switch(request, "enable", default=False)
        known = self._catalogue.maintenance(request.match_info["id"], enable, request.query.get("reason", ""))
        return self._told(request, known, "service")

    async def beat(self, request: web.Request) -> web.Response:
        return self._told(request, self._catalogue.beat(request.match_info["id"]), "check")

    async def health(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        index = _index(request)
        wait = min(duration(request.query["wait"]), MAX_WAIT) if "wait" in request.query else MAX_WAIT / 2
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while self._catalogue.index_of(name) <= index <= self._catalogue.index:
                    await self._news.wait()
        return web.Response(
            body=orjson.dumps(self._catalogue.entries(name)),
            content_type="application/json",
            headers={"X-Consul-Index": str(self._catalogue.index_of(name)), "X-Consul-LastContact": "0"},
        )

    async def pass_time(self) -> None:
        """Let heartbeats expire when they do. Runs for ever."""
        while True:
            due = self._catalogue.expire()
            self._wake()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                    await self._news.wait()

    def _told(self, request: web.Request, known: bool, what: str) -> web.Response:
        self._wake()
        if not known:
            return web.Response(status=404, text=f"Unknown {what} ID {request.match_info['id']!r}")
        return web.Response()

    def _wake(self) -> None:
        """Wake who waits, if there is news; the beats of a healthy fleet are none."""
        if self._catalogue.index != self._told_index:
            self._told_index = self._catalogue.index
            self._news.set()
            self._news = asyncio.Event()


def _switch(request: web.Request, name: str, *, default: bool) -> bool:
    value = request.query.get(name)
    if value is None:
        return default
    if value.lower() not in ("", "true", "1", "false", "0"):
        raise BadPayload(f"Invalid value for {name}: {value!r}")
    return value.lower() in ("", "true", "1")


def _index(request: web.Request) -> int:
    text = request.query.get("index") or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadPayload("Invalid index")
    return int(text)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    if "Origin" in request.headers:
        return web.Response(status=403, text="this registry is not for web pages")
    try:
        return await handler(request)
    except BadPayload as error:
        return web.Response(status=400, text=str(error))


@asynccontextmanager
async def serving(host: str, port: int, stop: Stop) -> AsyncIterator[str]:
    """Serve an empty registry while the block lasts; its value is `host:port`, with the port that 0 became.

    Raises OSError if the address cannot be listened on.
    """
    api = _Api(Catalogue(time.monotonic))
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors])
    app.add_routes(api.routes())
    # A blocked query ends when its asker goes, and when the registry does (0 would mean to wait for it).
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        async with supervised("the registry's clock", api.pass_time(), stop):
            bound_host, bound_port = runner.addresses[0][:2]
            yield join(bound_host, bound_port)
    finally:
        await runner.cleanup()
