"""One image's way through the worker: decode, queue for the model, run, name the best scores; with the timings.

Every door of the worker comes in here. Images are decoded in threads and before they join a batch, so that a damaged
one fails alone and neither decoding nor running ever holds up the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from muster.errors import ClusterError, Overloaded
from worker import images
from worker.batching import Batcher, Runners
from worker.models.preprocessing import Pixels
from worker.models.servable import Item, Servable

log = logging.getLogger(__name__)
T = TypeVar("T")
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A label and what the model thinks of it."""

    label: str
    score: np.float32


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says about one image, best first, and the seconds that each stage took."""

    predictions: tuple[Prediction, ...]
    decode: float
    queue: float
    infer: float
    batch: int


class Inference:
    """The threads and queues of this process. `limit` images at most are inside at once; more are refused."""

    def __init__(self, *, runners: int, limit: int, max_batch: int, batch_wait: float, max_pixels: int) -> None:
        self._runners = Runners(runners)
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decoder")
        self._limit = limit
        self._max_batch = max_batch
        self._batch_wait = batch_wait
        self._max_pixels = max_pixels
        self._batchers: dict[Servable, Batcher[Item, Scores]] = {}
        self._inside = 0

    @property
    def inside(self) -> int:
        """Images that are being decoded, wait, or run."""
        return self._inside

    def waiting(self, servable: Servable) -> int:
        """Decoded images that wait for the model."""
        return self._batcher(servable).waiting

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which is long for an event loop, in one of the decoding threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def classify(self, servable: Servable, files: Sequence[bytes], top: int) -> list[Answer | ClusterError]:
        """The `top` best labels of each image, or why it has none. Raises Overloaded for all of them together."""
        if self._inside + len(files) > self._limit:
            raise Overloaded(f"this worker has {self._inside} images to work on already", queue=self._inside)
        self._inside += len(files)
        try:
            if len(files) == 1:
                return [await self._outcome(servable, files[0], top)]
            return await asyncio.gather(*(self._outcome(servable, file, top) for file in files))
        finally:
            self._inside -= len(files)

    def close(self) -> None:
        """End the threads; what waits is refused."""
        for batcher in self._batchers.values():
            batcher.close()
        self._runners.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _outcome(self, servable: Servable, file: bytes, top: int) -> Answer | ClusterError:
        try:
            started = time.monotonic()
            item = await self.in_thread(lambda: self._decode(servable, file))
            decoded = time.monotonic() - started
            ran = await self._batcher(servable).submit(item)
        except ClusterError as error:
            return error
        except Exception:  # whatever the model raised: a fault of ours, to be seen by the operator
            log.exception("the model %r failed", servable.name)
            return ClusterError(f"the model {servable.name!r} failed")
        return Answer(best(servable.labels, ran.result, top), decoded, ran.waited, ran.took, ran.batch)

    def _decode(self, servable: Servable, file: bytes) -> Item:
        if isinstance(servable.input, Pixels):
            return images.to_pixels(file, servable.input, self._max_pixels)
        return images.to_encoded(file, self._max_pixels)

    def _batcher(self, servable: Servable) -> Batcher[Item, Scores]:
        batcher = self._batchers.get(servable)
        if batcher is None:
            size = min(self._max_batch, servable.batch_sizes[-1])
            batcher = Batcher(_rows(servable), self._runners, size=size, limit=self._limit, wait=self._batch_wait)
            self._batchers[servable] = batcher
        return batcher


def _rows(servable: Servable) -> Callable[[Sequence[Item]], list[Scores]]:
    return lambda items: list(servable.run(items))


def best(labels: Sequence[str], scores: Scores, top: int) -> tuple[Prediction, ...]:
    """The `top` highest scores with their labels, in falling order; equal ones in the order of the labels."""
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(Prediction(labels[index], scores[index]) for index in order)
