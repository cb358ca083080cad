"""What this worker answers over HTTP: the routes, and the one place where errors become answers."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import orjson
from aiohttp import web

import muster
from discovery.worker_json import to_json
from muster import wire
from muster.errors import ClusterError, MethodNotAllowed, NotFound
from muster.together import Together
from worker import serving_metrics
from worker.classify_api import ClassifyApi
from worker.metrics import CONTENT_TYPE, Metrics
from worker.rest_api import RestApi
from worker.rest_routes import PREFIX
from worker.state import State

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
SERVER = "muster"
"""What the answers name as their server; aiohttp's own header would tell the versions of everything."""
REFUSAL: Final = web.RequestKey("refusal", ClusterError)
"""Where `worker.connections` leaves the answer to what was no request; the connection ends with it."""
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")


class HttpApi:
    """The worker's handler for every request."""

    def __init__(self, state: State, classify: ClassifyApi, rest: RestApi, metrics: Metrics) -> None:
        self._state = state
        self._rest = rest
        self._metrics = metrics
        self._figures = Together(self._make_figures)
        self._serving_figures = Together(self._make_serving_figures)
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._index, "POST": classify},
            wire.CLASSIFY: {"POST": classify},
            wire.HEALTHZ: {"GET": self._healthz},
            wire.READYZ: {"GET": self._readyz},
            wire.METRICS: {"GET": self._metrics_page},
        }

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; whatever goes wrong is an answer too."""
        asked = request.headers.get(wire.REQUEST_ID, "")
        request_id = asked if _SANE_ID.fullmatch(asked) else _new_id()
        try:
            response = await self._handler(request)(request)
        except ClusterError as error:
            response = error_response(error)
        except Exception:  # a mistake of ours: the operator sees the traceback, the client a sentence
            log.exception("request %s failed", request_id)
            response = error_response(ClusterError("the worker made a mistake", request_id=request_id))
        response.headers["Server"] = SERVER
        response.headers[wire.SERVED_BY] = self._state.worker.id
        response.headers[wire.REQUEST_ID] = request_id
        content = request.content
        if self._state.draining or REFUSAL in request or not content.is_eof() or content.exception() is not None:
            # A client that should look for another worker, or what came from it cannot be read, or was not.
            response.force_close()
        return response

    def _handler(self, request: web.BaseRequest) -> Handler:
        if REFUSAL in request:
            raise request[REFUSAL]
        path = request.raw_path.partition("?")[0]
        if path == self._metrics.serving_path:
            return self._serving_page  # whatever the method
        if path[: len(PREFIX)].lower() == PREFIX:
            return self._rest
        methods = self._routes.get(path)
        if methods is None:
            raise NotFound("there is no such page", routes=[*sorted(self._routes), f"{PREFIX}models/NAME"])
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allow = ", ".join(sorted(methods.keys() | ({"HEAD"} if "GET" in methods else set())))
            raise MethodNotAllowed(f"{path} takes {allow}, not {request.method[:20]}", allow=allow)
        return handler

    async def _index(self, _: web.BaseRequest) -> web.Response:
        return json_response(
            {"name": "muster worker", "version": muster.__version__, "state": self._state.name}
            | {"worker": to_json(self._state.worker)}
        )

    async def _healthz(self, _: web.BaseRequest) -> web.Response:
        return json_response({"status": "alive"})

    async def _readyz(self, _: web.BaseRequest) -> web.Response:
        self._state.check_ready()
        return json_response({"status": "ready", "worker": to_json(self._state.worker)})

    async def _metrics_page(self, _: web.BaseRequest) -> web.Response:
        return web.Response(body=await self._figures.get(), headers={"Content-Type": CONTENT_TYPE})

    async def _serving_page(self, request: web.BaseRequest) -> web.Response:
        serving_metrics.check_target(request.raw_path, self._metrics.serving_path or "")
        body = await self._serving_figures.get()
        return web.Response(body=body, headers={"Content-Type": serving_metrics.CONTENT_TYPE})

    async def _make_figures(self) -> bytes:
        return self._metrics.page()

    async def _make_serving_figures(self) -> bytes:
        return self._metrics.serving.page()


def _new_id() -> str:
    """A name for a request. It need not be a secret, and asking the system for one gives other threads their turn."""
    return f"{random.getrandbits(128):032x}"


def json_response(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`body` as an answer."""
    return web.Response(
        body=orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE),
        status=status,
        headers={"Content-Type": "application/json", **(headers or {})},
    )


def error_response(error: ClusterError) -> web.Response:
    """The answer that `error` asks for."""
    return json_response(error.to_json(), error.status, error.headers())
