"""One worker's life: listen, load and warm the models, announce, serve; then withdraw, finish, and go.

The order is the feature. A worker of a cluster opens its ports at the beginning, so that health can be asked for and
the ports are known; `/readyz` and the registry say yes only when every model is warm. A drop-in for
tensorflow_model_server opens them when the models are there, because that is how its users know. On the way out both
say no first, requests keep being served for as long as somebody may not have heard of it, and the listeners close
before the models go.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import muster
from discovery.addresses import open_registry
from discovery.registry import Listing
from discovery.worker_json import worker_id
from muster.lifetime import Stop
from muster.values import Worker
from worker.addresses import advertised, bind, everywhere
from worker.classify_api import ClassifyApi
from worker.doors import open_doors
from worker.grpc_api import GrpcApi
from worker.http_api import HttpApi
from worker.inference import Inference
from worker.metrics import Metrics
from worker.models.catalogue import Catalogue
from worker.models.manager import managing
from worker.rest_api import RestApi
from worker.serving_metrics import page_path
from worker.settings import WorkerSettings
from worker.state import State

log = logging.getLogger(__name__)


async def serve(settings: WorkerSettings, stop: Stop) -> None:
    """Run a worker until `stop`. Raises ModelProblem, StatusError, ValueError or OSError, a sentence, if it cannot."""
    async with AsyncExitStack() as life:
        registry = await life.enter_async_context(
            open_registry(settings.registry, os.environ, stop, service=settings.service)
        )
        sock = life.enter_context(bind(settings.host, settings.port)) if settings.serves_http else None
        if settings.serves_grpc:
            bind(settings.host, settings.grpc_port).close()  # that it is taken is said before models are loaded
        catalogue = Catalogue()
        state = State(_introduction(settings, sock), catalogue)
        inference = Inference(settings)
        life.callback(inference.close)
        metrics = Metrics(state, inference, page_path(settings.monitoring_config_file))
        manager = await life.enter_async_context(managing(settings, catalogue, inference.forget, stop))
        http = HttpApi(
            state,
            ClassifyApi(settings, state, inference, metrics),
            RestApi(settings, state, inference, metrics),
            metrics,
        )
        grpc = GrpcApi(settings, state, inference, manager, metrics)
        doors = open_doors(settings, state, http, sock, grpc, stop)

        if not settings.drop_in:
            await life.enter_async_context(doors)
        if not await _unless_stopped(stop, manager.ready()):
            return
        state.started()
        if settings.drop_in:
            await life.enter_async_context(doors)
        listing = await life.enter_async_context(registry.announce(state.worker))
        catalogue.on_change(lambda: listing.update(state.worker))
        listing.update(state.worker)  # what changed while it was being listed
        log.info("%s is ready at %s", state.worker.id, state.worker.url)

        await stop.wait()
        await _drain(settings, state, listing)


def _introduction(settings: WorkerSettings, sock: socket.socket | None) -> Worker:
    # Without HTTP it is not announced: only its id needs an address.
    listens = sock.getsockname()[:2] if sock is not None else (everywhere(), settings.grpc_port)
    host, port = advertised(settings.advertise, listens)
    return Worker(
        id=worker_id(host, port, secrets.token_hex(4)),
        host=host,
        port=port,
        version=muster.__version__,
        replay_safe=True,  # to classify an image twice does no harm
        capacity=settings.queue,
    )


async def _unless_stopped(stop: Stop, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work`; False if the process is to end before it is done."""
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        working.cancel()
        stopped.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)


async def _drain(settings: WorkerSettings, state: State, listing: Listing) -> None:
    state.drain()
    await listing.withdraw("the worker is stopping")
    await asyncio.sleep(settings.drain_delay)  # who asked the registry a moment ago may still come
    try:
        async with asyncio.timeout(settings.drain_timeout):
            await state.idle()
    except TimeoutError:
        log.warning("%s ends with requests unfinished after %g seconds", state.worker.id, settings.drain_timeout)
