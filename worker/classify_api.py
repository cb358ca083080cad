"""`POST /classify`: images in, labels out. It only translates; the work is done in `worker.inference`.

    one image       {"model": {"name": "digits", "version": 1}, "predictions": [{"label": "7", "score": 0.998}, …]}
    several images  {"model": …, "results": [{"filename": "a.png", "predictions": […]},
                                             {"filename": "b.png", "error": "…", "code": "bad_image"}]}

One image that cannot be judged is an error of the request; among several it is an error of its own and the request
succeeds. `Server-Timing` tells the milliseconds of each stage, of the slowest image where there are several.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from muster import wire
from muster.errors import BadRequest, ClusterError, UnknownModel
from worker.bodies import BODIES, Shelf, read_body
from worker.inference import Answer, Inference
from worker.metrics import Metrics
from worker.models.catalogue import Catalogue
from worker.models.servable import Servable
from worker.settings import WorkerSettings
from worker.state import State
from worker.status import Code, code_of
from worker.timing import server_timing
from worker.uploads import Upload, unpack

LONG = 64 * 1024
"""Bytes. A longer body is taken apart in a thread, so that others are not kept waiting."""
ASKED = ("model", "version", "label", "top")


@dataclass(frozen=True, slots=True)
class Query:
    """What the query asks for."""

    model: str | None
    version: int | None
    label: str | None
    top: int


class ClassifyApi:
    """The handler of the route."""

    def __init__(self, settings: WorkerSettings, state: State, inference: Inference, metrics: Metrics) -> None:
        self._settings = settings
        self._state = state
        self._inference = inference
        self._metrics = metrics
        self._shelf = Shelf(BODIES * settings.max_body)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Classify the images of a request. Raises ClusterError."""
        started = time.monotonic()
        servable: Servable | None = None
        model, code = "", Code.INTERNAL
        try:
            query = read_query(request)
            model = query.model or ""
            with self._state.request(), chosen(self._state.catalogue, query) as servable, self._shelf.place() as grow:
                response = await self._classify(request, servable, query.top, grow)
            code = Code.OK
        except ClusterError as error:
            code = code_of(error)
            raise
        except asyncio.CancelledError:  # the client did not wait for the answer
            code = Code.CANCELLED
            raise
        finally:
            name, version = (servable.name, servable.version) if servable else (model, None)
            self._metrics.requested("HTTP", "classify", name, version, code, time.monotonic() - started)
        return response

    async def _classify(
        self, request: web.BaseRequest, servable: Servable, top: int, grow: Callable[[int], None]
    ) -> web.Response:
        self._inference.check_room(servable)  # a refusal is cheap as long as the body is not here
        uploads = await self._uploads(request, grow)
        outcomes = await self._inference.classify(servable, [upload.data for upload in uploads], top)
        answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
        for answer in answers:
            self._metrics.classified(servable, answer)
        started = time.monotonic()
        payload = orjson.dumps(
            _body(servable, uploads, outcomes), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        )
        encode = time.monotonic() - started
        self._metrics.encoded(servable, encode)
        headers = {"Content-Type": "application/json", wire.SERVER_TIMING: _timing(answers, encode)}
        return web.Response(body=payload, headers=headers)

    async def _uploads(self, request: web.BaseRequest, grow: Callable[[int], None]) -> list[Upload]:
        settings = self._settings
        body = await read_body(request, settings.max_body, settings.body_timeout, grow)
        content_type = request.headers.get("Content-Type", "")
        if len(body) <= LONG:
            return unpack(body, content_type, settings.max_images)
        return await self._inference.in_thread(lambda: unpack(body, content_type, settings.max_images))


def read_query(request: web.BaseRequest) -> Query:
    """The query, checked. Raises BadRequest."""
    asked = request.query
    twice = next((name for name in ASKED if len(asked.getall(name, [])) > 1), None)
    if twice is not None:
        raise BadRequest(f"{twice} is given more than once")
    version, label, top = asked.get("version"), asked.get("label"), asked.get("top", "5")
    if version is not None and not re.fullmatch(r"[0-9]{1,18}", version):
        raise BadRequest(f"version must be a number, not {version[:100]!r}")
    if version is not None and label is not None:
        raise BadRequest("version and label both choose a version: give one of them")
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", top):
        raise BadRequest(f"top must be a number from 1 up, not {top[:100]!r}")
    return Query(asked.get("model"), None if version is None else int(version), label, int(top))


@contextmanager
def chosen(catalogue: Catalogue, query: Query) -> Iterator[Servable]:
    """The model that the query asks for, kept until the block ends.

    Without a name it is the only model, or the one called "default". Raises UnknownModel, and BadRequest where the name
    cannot be left out.
    """
    name = query.model if query.model is not None else _default(catalogue)
    versions = catalogue.available.get(name)
    if versions is None:
        sentence = f"there is no model {name[:100]!r}" if name else "the name of the model is empty"
        raise UnknownModel(sentence, models=list(catalogue.names))
    version = query.version
    if query.label is not None:
        version = catalogue.labelled(name, query.label)
        if version is None:
            raise UnknownModel(f"no version of the model {name!r} has the label {query.label[:100]!r}", models=[name])
    if version is not None and version not in versions:
        raise UnknownModel(f"the model {name!r} has no version {version}", versions=list(versions))
    with catalogue.use(name, version) as servable:
        yield servable


def _default(catalogue: Catalogue) -> str:
    if len(catalogue.names) == 1:
        return catalogue.names[0]
    if "default" in catalogue.names:
        return "default"
    raise BadRequest("this worker has several models: say which, as in ?model=NAME", models=list(catalogue.names))


def _body(servable: Servable, uploads: Sequence[Upload], outcomes: Sequence[Answer | ClusterError]) -> dict[str, Any]:
    model = {"name": servable.name, "version": servable.version}
    if len(outcomes) == 1:
        if isinstance(outcomes[0], ClusterError):
            raise outcomes[0]
        return {"model": model, "predictions": _predictions(outcomes[0])}
    return {
        "model": model,
        "results": [
            {"filename": upload.filename}
            | (outcome.to_json() if isinstance(outcome, ClusterError) else {"predictions": _predictions(outcome)})
            for upload, outcome in zip(uploads, outcomes, strict=True)
        ],
    }


def _predictions(answer: Answer) -> list[dict[str, Any]]:
    return [{"label": prediction.label, "score": prediction.score} for prediction in answer.predictions]


def _timing(answers: Sequence[Answer], encode: float) -> str:
    return server_timing(
        decode=max((answer.decode for answer in answers), default=0.0),
        queue=max((answer.queue for answer in answers), default=0.0),
        infer=max((answer.infer for answer in answers), default=0.0),
        encode=encode,
    )
