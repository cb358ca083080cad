"""A small cluster in one event loop: an aiohttp server that is proxy and worker at once, for tests of who asks it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SEVEN = {"model": {"name": "digits", "version": 1}, "predictions": [{"label": "7", "score": 0.9}]}


@asynccontextmanager
async def serving(**routes: Handler) -> AsyncIterator[str]:
    """`http://host:port` of a server with handlers for paths: `classify`, `workers`, `root`, `v1` with all below."""
    app = web.Application(client_max_size=2**26)
    for name, handler in routes.items():
        app.router.add_route("*", {"root": "/", "v1": "/v1/{rest:.*}"}.get(name, f"/{name}"), handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def nobody_there() -> Iterator[str]:
    """`host:port` where a connection is refused for as long as the block lasts."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def answering(body: Any, status: int = 200, **headers: str) -> Handler:
    """Always the same answer."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers={key.replace("_", "-"): headers[key] for key in headers})

    return handler
