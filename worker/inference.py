"""A request's way through the worker: images are decoded, tensors queue for the model and run, the best scores get
their names; with the timings.

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

from muster.errors import BadImage, BadRequest, ClusterError, Overloaded
from worker import images
from worker.batching import Batcher, Ran, Runners
from worker.models.preprocessing import Pixels
from worker.models.servable import Array, Classifier, Encoded, Item, Run, Servable, Tensor
from worker.status import Code, StatusError

log = logging.getLogger(__name__)
T = TypeVar("T")
Scores = NDArray[np.float32]
_Key = tuple[Servable, tuple[Tensor, ...], tuple[Tensor, ...], bool]


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
        self._batchers: dict[_Key, Batcher[Sequence[Array], list[Array]]] = {}
        self._inside = 0

    @property
    def inside(self) -> int:
        """Images that are being decoded, wait, or run."""
        return self._inside

    def waiting(self, servable: Servable) -> int:
        """Tasks that wait for the model."""
        return sum(batcher.waiting for key, batcher in self._batchers.items() if key[0] is servable)

    async def forget(self, servable: Servable) -> None:
        """It is about to be unloaded, and nobody uses it any more."""
        self._batchers = {key: batcher for key, batcher in self._batchers.items() if key[0] is not servable}

    async def run(
        self,
        servable: Servable,
        inputs: Sequence[Tensor],
        arrays: Sequence[Array],
        outputs: Sequence[Tensor],
        deadline: float | None = None,
    ) -> Ran[list[Array]]:
        """The values of `outputs` for `arrays`, one for each of `inputs`. `deadline` is by the loop's clock.

        Raises StatusError with what TensorFlow says, or DEADLINE_EXCEEDED; Overloaded.
        """
        batcher = self._batcher((servable, tuple(inputs), tuple(outputs), False))
        try:
            async with asyncio.timeout_at(deadline):
                return await batcher.submit(arrays)
        except TimeoutError:
            raise StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification") from None

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which is long for an event loop, in one of the decoding threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def classify(self, servable: Servable, files: Sequence[bytes], top: int) -> list[Answer | ClusterError]:
        """The `top` best labels of each image, or why it has none.

        Raises BadRequest if the model does not classify images, Overloaded for all images together.
        """
        classifier = servable.classifier
        if classifier is None:
            raise BadRequest(f"the model {servable.name!r} does not classify images: {servable.no_classifier}")
        if self._inside + len(files) > self._limit:
            raise Overloaded(f"this worker has {self._inside} images to work on already", queue=self._inside)
        self._inside += len(files)
        try:
            if len(files) == 1:
                return [await self._outcome(servable, classifier, files[0], top)]
            return await asyncio.gather(*(self._outcome(servable, classifier, file, top) for file in files))
        finally:
            self._inside -= len(files)

    def close(self) -> None:
        """End the threads; what waits is refused."""
        for batcher in self._batchers.values():
            batcher.close()
        self._runners.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _outcome(
        self, servable: Servable, classifier: Classifier, file: bytes, top: int
    ) -> Answer | ClusterError:
        try:
            started = time.monotonic()
            array = await self.in_thread(lambda: classifier.pack(self._decode(classifier, file)))
            decoded = time.monotonic() - started
            ran = await self._batcher((servable, (classifier.input,), (classifier.output,), True)).submit([array])
            scores = classifier.scores(ran.result[0])
        except StatusError as error:
            if isinstance(classifier.takes, Encoded) and error.canonical is Code.INVALID_ARGUMENT:
                return BadImage(f"the model cannot decode this image: {error.message.splitlines()[0].rstrip('.')}")
            log.exception("the model %r failed", servable.name)
            return ClusterError(f"the model {servable.name!r} failed")
        except ClusterError as error:
            return error
        except Exception:  # whatever the model raised: a fault of ours, to be seen by the operator
            log.exception("the model %r failed", servable.name)
            return ClusterError(f"the model {servable.name!r} failed")
        return Answer(best(classifier.labels, scores, top), decoded, ran.waited, ran.took, ran.batch)

    def _decode(self, classifier: Classifier, file: bytes) -> Item:
        if isinstance(classifier.takes, Pixels):
            return images.to_pixels(file, classifier.takes, self._max_pixels)
        return images.to_encoded(file, self._max_pixels)

    def _batcher(self, key: _Key) -> Batcher[Sequence[Array], list[Array]]:
        batcher = self._batchers.get(key)
        if batcher is None:
            servable, inputs, outputs, merge = key
            run = servable.function(inputs, outputs)
            sizes = servable.classifier.batch_sizes if merge and servable.classifier else (1,)
            size = min(self._max_batch, sizes[-1]) if merge else 1
            batcher = Batcher(_rows(run, sizes), self._runners, size=size, limit=self._limit, wait=self._batch_wait)
            self._batchers[key] = batcher
        return batcher


def _rows(run: Run, sizes: Sequence[int]) -> Callable[[Sequence[Sequence[Array]]], list[list[Array]]]:
    """Tasks of one row each in one call, padded to the next of `sizes`."""

    def call(tasks: Sequence[Sequence[Array]]) -> list[list[Array]]:
        size = next(size for size in sizes if size >= len(tasks))
        if size == 1:
            return [run(*tasks[0])]
        padded = [*tasks, *[tasks[-1]] * (size - len(tasks))]
        outputs = run(*(np.concatenate(column) for column in zip(*padded, strict=True)))
        return [[output[row : row + 1] for output in outputs] for row in range(len(tasks))]

    return call


def best(labels: Sequence[str], scores: Scores, top: int) -> tuple[Prediction, ...]:
    """The `top` highest scores with their labels, in falling order; equal ones in the order of the labels."""
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(Prediction(labels[index], scores[index]) for index in order)
