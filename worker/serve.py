"""One worker's life: listen, load and warm the models, announce, serve; then withdraw, finish, and go.

The order is the feature. The port is open from the beginning, so that health can be asked for and the port is known;
`/readyz` and the registry say yes only when every model is warm. On the way out they say no first, requests keep being
served for as long as somebody may not have heard of it, and the listener closes last.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import muster
from discovery.addresses import open_registry
from discovery.registry import Listing
from discovery.worker_json import worker_id
from muster.lifetime import Stop
from muster.values import Worker
from worker.addresses import advertised, bind
from worker.classify_api import ClassifyApi
from worker.connections import listening
from worker.http_api import HttpApi
from worker.inference import Inference
from worker.metrics import Metrics
from worker.models.catalogue import Catalogue
from worker.models.finding import find
from worker.settings import WorkerSettings
from worker.state import State

log = logging.getLogger(__name__)
T = TypeVar("T")


async def serve(settings: WorkerSettings, stop: Stop) -> None:
    """Run a worker until `stop`. Raises ModelProblem, ValueError or OSError, one sentence, if it cannot."""
    async with AsyncExitStack() as life:
        registry = await life.enter_async_context(
            open_registry(settings.registry, os.environ, stop, service=settings.service)
        )
        sock = life.enter_context(bind(settings.host, settings.port))
        state = State(_introduction(settings, sock.getsockname()[:2]))
        inference = Inference(
            runners=settings.runners, limit=settings.queue, max_batch=settings.max_batch,
            batch_wait=settings.batch_wait, max_pixels=settings.max_pixels,
        )  # fmt: skip
        life.callback(inference.close)
        metrics = Metrics(state, inference)
        api = HttpApi(state, ClassifyApi(settings, state, inference, metrics), metrics)
        await life.enter_async_context(listening(api, sock, stop))

        catalogue = await _unless_stopped(stop, lambda: _load(settings))
        if catalogue is None:
            return
        state.loaded(catalogue, dataclasses.replace(state.worker, models=catalogue.names))
        listing = await life.enter_async_context(registry.announce(state.worker))
        log.info("%s is ready at %s", state.worker.id, state.worker.url)

        await stop.wait()
        await _drain(settings, state, listing)


def _introduction(settings: WorkerSettings, listens: tuple[str, int]) -> Worker:
    host, port = advertised(settings.advertise, listens)
    return Worker(
        id=worker_id(host, port, secrets.token_hex(4)),
        host=host,
        port=port,
        version=muster.__version__,
        replay_safe=True,  # to classify an image twice does no harm
        capacity=settings.queue,
    )


def _load(settings: WorkerSettings) -> Catalogue:
    models = find(settings.path)
    from worker.models.loading import load_catalogue  # only now, for it takes seconds: TensorFlow comes with it

    labels = None if settings.labels is None else Path(settings.labels)
    return load_catalogue(models, settings.hints, labels, settings.max_batch)


async def _unless_stopped(stop: Stop, work: Callable[[], T]) -> T | None:
    """The result of `work`, done in a thread; None if the process is to end before.

    The thread is left behind then: TensorFlow cannot be interrupted, and must not hold up the end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # it is the loop's to judge
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=body, name="loader", daemon=True).start()
    stopped = asyncio.create_task(stop.wait())
    stopped.add_done_callback(lambda _: done.cancel())
    try:
        return await done
    except asyncio.CancelledError:
        if stop.requested:
            return None
        raise
    finally:
        stopped.cancel()


async def _drain(settings: WorkerSettings, state: State, listing: Listing) -> None:
    state.drain()
    await listing.withdraw("the worker is stopping")
    await asyncio.sleep(settings.drain_delay)  # who asked the registry a moment ago may still come
    try:
        async with asyncio.timeout(settings.drain_timeout):
            await state.idle()
    except TimeoutError:
        log.warning("%s ends with requests unfinished after %g seconds", state.worker.id, settings.drain_timeout)
