"""A worker's doors on a real socket, in this process; around models that are loaded already."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from muster.lifetime import Stop
from muster.values import Worker
from worker.addresses import bind
from worker.classify_api import ClassifyApi
from worker.connections import Deadlines, listening
from worker.http_api import HttpApi
from worker.inference import Inference
from worker.metrics import Metrics
from worker.models.catalogue import Catalogue
from worker.rest_api import RestApi
from worker.serving_metrics import page_path
from worker.settings import WorkerSettings
from worker.state import State

PATIENT = Deadlines()


@dataclass(frozen=True)
class Answer:
    status: int
    json: Any
    headers: Any


@dataclass(frozen=True)
class Doors:
    port: int
    state: State
    inference: Inference
    session: aiohttp.ClientSession

    async def ask(self, path: str, data: Any = None, method: str | None = None, **options: Any) -> Answer:
        """One request; everything but a page of metrics answers with JSON."""
        method = method or ("GET" if data is None else "POST")
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, data=data, **options) as answer:
            body = await answer.json() if answer.content_type == "application/json" else await answer.text()
            return Answer(answer.status, body, answer.headers)

    async def raw(self, request: bytes) -> bytes:
        """Send these very bytes and read until the worker closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def open_doors(
    catalogue: Catalogue | None, deadlines: Deadlines = PATIENT, **changes: Any
) -> AsyncIterator[Doors]:
    """Doors around `catalogue`, which is still being loaded if it is None."""
    settings = dataclasses.replace(WorkerSettings(runners=1, max_batch=4), **changes)
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    models = catalogue or Catalogue()
    state = State(Worker("worker-1", "127.0.0.1", port, models=models.names), models)
    inference = Inference(settings)
    metrics = Metrics(state, inference, page_path(settings.monitoring_config_file))
    stop = Stop()
    if catalogue is not None:
        state.started()
    try:
        api = HttpApi(
            state,
            ClassifyApi(settings, state, inference, metrics),
            RestApi(settings, state, inference, metrics),
            metrics,
        )
        async with listening(api, sock, stop, deadlines), aiohttp.ClientSession() as session:
            yield Doors(port, state, inference, session)
    finally:
        inference.close()
    assert not stop.requested
