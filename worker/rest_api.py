"""TensorFlow Serving's REST API. It only translates; models are run by `worker.inference`.

    POST /v1/models/NAME[/versions/N|/labels/L]:predict|:classify|:regress
    GET  /v1/models/NAME[/versions/N|/labels/L][/metadata]

An error is `{"error": "…"}` and nothing else, as its clients know it. Long bodies are read, and long answers written,
in threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from aiohttp import web

from muster import wire
from muster.errors import ClusterError, UnknownModel
from worker import json_answers, json_requests
from worker.batching import Ran
from worker.bodies import BODIES, Shelf, inflated, read_body
from worker.examples import (
    DEFAULT_SIGNATURE,
    Examples,
    classification,
    classifications,
    regression,
    regressions,
    signature_for_examples,
)
from worker.inference import Inference
from worker.metrics import Metrics
from worker.model_pages import metadata_page, status_page
from worker.models.servable import Array, Servable, Signature, bytes_in
from worker.requests import check_predict_method
from worker.rest_routes import Route, route
from worker.settings import WorkerSettings
from worker.state import State
from worker.status import Code, StatusError, code_of
from worker.timing import server_timing

log = logging.getLogger(__name__)
T = TypeVar("T")

JSON = "application/json"
LONG = 4 * 1024
"""Bytes. A longer body is read in a thread, so that others are not kept waiting: JSON that is not quite standard, or
wrong, takes up to a millisecond for each kilobyte.
"""
TIGHTEST = 1032
"""So many times its length is the most that a packed body can unpack to."""
LARGE = 16 * 1024
"""Bytes of tensors. An answer with more of them is written in a thread."""
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@dataclass(slots=True)
class Call:
    """What is known of a request, for the metrics."""

    api: str = ""
    model: str = ""
    version: int | None = None
    started: float = field(default_factory=time.monotonic)
    received: float = 0.0
    """When its body was here."""
    code: Code = Code.OK
    """What became of it."""


class RestApi:
    """The handler for every path under /v1/."""

    def __init__(self, settings: WorkerSettings, state: State, inference: Inference, metrics: Metrics) -> None:
        self._settings = settings
        self._state = state
        self._inference = inference
        self._metrics = metrics
        self._shelf = Shelf(BODIES * settings.max_body + settings.max_inflated)
        self._verbs = {"predict": self._predict, "classify": self._classify, "regress": self._regress}

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        """Answer a request; errors are answers, too."""
        call = Call()
        try:
            response = await self._answer(request, call)
        except ClusterError as error:
            call.code = code_of(error)
            response = _reply(json_answers.error(error.message), error.status)
            response.headers.update(error.headers())
        except asyncio.CancelledError:  # the client did not wait for the answer
            call.code = Code.CANCELLED
            raise
        except Exception:  # a mistake of ours: the operator sees the traceback, the client a sentence
            log.exception("a request to %s failed", request.raw_path)
            call.code = Code.INTERNAL
            response = _reply(json_answers.error("the worker made a mistake"), call.code.http)
        finally:
            took = time.monotonic() - call.started
            self._metrics.requested("REST", call.api, call.model, call.version, call.code, took)
        if self._settings.rest_api_enable_cors_support:
            response.headers.update(CORS)
        return response

    async def _answer(self, request: web.BaseRequest, call: Call) -> web.Response:
        if request.method == "OPTIONS":
            if not request.headers.get("Origin", "").startswith(("http://", "https://")):
                call.code = Code.FAILED_PRECONDITION
            return _reply(b"", call.code.http)
        way = route(request.method, request.raw_path)
        call.model = way.name
        if way.verb == "status":
            return self._status(way)
        if way.verb == "metadata":
            with self._use(way) as servable:
                call.version = servable.version
                return _reply(metadata_page(servable))
        call.api = way.verb
        with self._state.request(), self._shelf.place() as grow:
            self._check_room(way)
            body = await self._body(request, grow)
            call.received = time.monotonic()
            return await self._verbs[way.verb](way, call, body)

    def _status(self, way: Route) -> web.Response:
        """A label is not looked at: then it is every version."""
        statuses = self._state.models.statuses(way.name)
        if way.version is not None:
            statuses = [status for status in statuses if status.version == way.version]
        if not statuses:
            what = "any versions" if way.version is None else f"version {way.version}"
            raise StatusError(Code.NOT_FOUND, f"Could not find {what} of model {way.name}")
        return _reply(status_page(statuses))

    async def _predict(self, way: Route, call: Call, body: bytes) -> web.Response:
        document = await self._off_loop(lambda: self._read(body), len(body), LONG)
        key = document.get("signature_name", "")
        with self._use(way) as servable:
            call.version = servable.version
            signature = servable.signatures.get(key or DEFAULT_SIGNATURE)
            if signature is None:
                raise StatusError(
                    Code.INVALID_ARGUMENT,
                    f'Serving signature name: "{key or DEFAULT_SIGNATURE}" not found in signature def',
                )
            arrays, as_rows = await self._off_loop(
                partial(json_requests.tensors, document, signature, key), len(body), LONG
            )
            del document  # it takes many times the memory of the arrays
            if self._settings.enable_signature_method_name_check:
                check_predict_method(signature)
            return await self._run(call, servable, signature, arrays, as_rows)

    async def _run(
        self, call: Call, servable: Servable, signature: Signature, arrays: list[Array], as_rows: bool
    ) -> web.Response:
        decoded = time.monotonic()
        outputs = tuple(signature.outputs.values())
        ran = await self._inference.run(servable, tuple(signature.inputs.values()), arrays, outputs, self._deadline())

        def write() -> bytes:
            named = dict(zip(signature.outputs, ran.result, strict=True))
            return json_answers.predictions(named) if as_rows else json_answers.columns(named)

        return await self._written(call, servable, ran, decoded, write)

    async def _classify(self, way: Route, call: Call, body: bytes) -> web.Response:
        return await self._of_examples(
            way, call, body, classification,
            lambda examples, arrays, count: json_answers.classifications(classifications(examples, arrays, count)),
        )  # fmt: skip

    async def _regress(self, way: Route, call: Call, body: bytes) -> web.Response:
        return await self._of_examples(
            way, call, body, regression,
            lambda examples, arrays, count: json_answers.regressions(regressions(examples, arrays, count)),
        )  # fmt: skip

    async def _of_examples(
        self,
        way: Route,
        call: Call,
        body: bytes,
        view: Callable[[Signature, bool], Examples],
        write: Callable[[Examples, list[Array], int], bytes],
    ) -> web.Response:
        key, records = await self._off_loop(lambda: self._read_examples(body), len(body), LONG)
        with self._use(way) as servable:
            call.version = servable.version
            signature = signature_for_examples(servable, key)
            examples = view(signature, self._settings.enable_signature_method_name_check)
            decoded = time.monotonic()
            ran = await self._inference.run(servable, (examples.input,), [records], examples.outputs, self._deadline())
            return await self._written(call, servable, ran, decoded, lambda: write(examples, ran.result, len(records)))

    async def _written(
        self, call: Call, servable: Servable, ran: Ran[list[Array]], decoded: float, write: Callable[[], bytes]
    ) -> web.Response:
        """The answer to a run, with its timings."""
        started = time.monotonic()
        payload = await self._off_loop(write, bytes_in(ran.result), LARGE)
        encode = time.monotonic() - started
        decode = decoded - call.received
        self._metrics.ran(servable, call.api, decode=decode, ran=ran, encode=encode)
        response = _reply(payload)
        response.headers[wire.SERVER_TIMING] = server_timing(
            decode=decode, queue=ran.waited, infer=ran.took, encode=encode
        )
        return response

    def _use(self, way: Route) -> AbstractContextManager[Servable, None]:
        """The model, kept until the block ends. Raises Loading, UnknownModel, StatusError."""
        return self._state.catalogue.use(way.name, way.version, way.label)

    def _check_room(self, way: Route) -> None:
        """Refuse at once what would be refused when its body is here. What else is wrong is told in its order, later.

        Raises Loading, Overloaded.
        """
        with suppress(UnknownModel, StatusError), self._use(way) as servable:
            self._inference.check_room(servable)

    async def _body(self, request: web.BaseRequest, grow: Callable[[int], None]) -> bytes:
        settings = self._settings
        body = await read_body(request, settings.max_body, settings.body_timeout, grow, packed=True)
        if "gzip" not in request.headers.get("Content-Encoding", "").lower():
            return body
        grow(len(body) + min(len(body) * TIGHTEST, settings.max_inflated))
        body = await self._inference.in_thread(lambda: inflated(body, settings.max_inflated))
        grow(len(body))
        return body

    def _read(self, body: bytes) -> json_requests.Document:
        settings = self._settings
        return json_requests.read(body, depth=settings.max_json_depth, values=settings.max_json_values)

    def _read_examples(self, body: bytes) -> tuple[str, Array]:
        document = self._read(body)
        return document.get("signature_name", ""), json_requests.examples(document, self._settings.max_fill)

    def _deadline(self) -> float | None:
        limit = self._settings.rest_api_timeout_in_ms
        return asyncio.get_running_loop().time() + limit / 1000 if limit > 0 else None

    async def _off_loop(self, work: Callable[[], T], size: int, most: int) -> T:
        """Do `work`, which deals with `size` bytes: here if they are not more than `most`, else in a thread."""
        return work() if size <= most else await self._inference.in_thread(work, size)


def _reply(payload: bytes, status: int = 200) -> web.Response:
    return web.Response(body=payload, status=status, headers={"Content-Type": JSON})
