"""A request's way through the worker: images are decoded, tensors queue for the model and run, the best scores get
their names; with the timings.

Every door of the worker comes in here. Images are decoded in threads and before they join a batch, so that a damaged
one fails alone and neither decoding nor running ever holds up the event loop. Which tasks share a model call is said
in `worker.lines`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from muster.errors import BadImage, BadRequest, ClusterError, Overloaded
from worker import images
from worker.batching import Called, Ran
from worker.batching_parameters import batching_of
from worker.lines import Lines
from worker.models.preprocessing import Pixels
from worker.models.servable import Array, Classifier, Encoded, Item, Servable, Tensor
from worker.runners import Runners
from worker.settings import WorkerSettings
from worker.status import Code, StatusError

log = logging.getLogger(__name__)
T = TypeVar("T")
Scores = NDArray[np.float32]

LARGE_TEXT = 512 * 1024
"""Bytes of JSON that take a second to read in the worst case."""


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
    """The threads and queues of this process.

    Without --enable_batching `--queue` tasks (images, requests) at most are inside for one version of a model; more are
    refused. With it that goes for images alone, and what becomes of tensors is said by the batching parameters.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        """Raises StatusError, BadConfig or OSError for batching parameters that are of no use."""
        self._batching = batching_of(settings)
        self._runners = Runners((self._batching and self._batching.threads) or settings.runners)
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decoder")
        self._large_images = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="large-image")
        self._large_bodies = ThreadPoolExecutor(1, thread_name_prefix="large-body")  # they take turns at Python anyway
        self._settings = settings
        self._lines: dict[Servable, Lines] = {}
        self._on_call: list[Callable[[Called], None]] = []

    def on_call(self, callback: Callable[[Called], None]) -> None:
        """Call `callback` after each model call that requests may share by --enable_batching."""
        self._on_call.append(callback)

    @property
    def inside(self) -> int:
        """Tasks (images, requests) that are being decoded, wait, or run."""
        return sum(lines.inside for lines in self._lines.values())

    def waiting(self, servable: Servable) -> int:
        """Tasks that wait for the model."""
        lines = self._lines.get(servable)
        return lines.waiting if lines else 0

    def check_room(self, servable: Servable) -> None:
        """Raises Overloaded if a request to this model would be refused whatever it holds.

        A door that asks before it reads a body refuses at hardly any cost.
        """
        lines = self._lines.get(servable)
        if lines is None:
            return
        if not self._batches(servable):
            if lines.bounded >= self._settings.queue:
                raise _overloaded(servable, lines.bounded)
        elif (full := lines.full) is not None:
            raise full

    async def forget(self, servable: Servable) -> None:
        """It is about to be unloaded, and nobody asks for it any more. Return when no call of it is under way."""
        lines = self._lines.pop(servable, None)
        if lines is not None:
            await lines.idle()

    async def run(
        self,
        servable: Servable,
        inputs: Sequence[Tensor],
        arrays: Sequence[Array],
        outputs: Sequence[Tensor],
        deadline: float | None = None,
    ) -> Ran[list[Array]]:
        """The values of `outputs` for `arrays`, one for each of `inputs`. `deadline` is by the loop's clock.

        Raises StatusError with what TensorFlow says, DEADLINE_EXCEEDED, or what the batching parameters do not allow;
        Overloaded.
        """
        if len(inputs) > 1:
            inputs, order = _sorted(inputs)
            arrays = [arrays[index] for index in order]
        if len(outputs) > 1:
            outputs, order = _sorted(outputs)
        lines = self._lines_of(servable)
        with self._inside(servable, lines, 1, bounded=not self._batches(servable)):
            ran = await lines.run(inputs, arrays, outputs, deadline)
        if len(outputs) < 2:
            return ran
        results = dict(zip(order, ran.result, strict=True))
        return replace(ran, result=[results[index] for index in range(len(outputs))])

    async def in_thread(self, work: Callable[[], T], size: int = 0) -> T:
        """Run `work`, which is long for an event loop, in one of the decoding threads.

        `size` is that of a text it deals with, in bytes: large ones have a thread of their own, where nobody else waits
        for them and one at a time takes memory.
        """
        threads = self._threads if size <= LARGE_TEXT else self._large_bodies
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    async def classify(self, servable: Servable, files: Sequence[bytes], top: int) -> list[Answer | ClusterError]:
        """The `top` best labels of each image, or why it has none.

        Raises BadRequest if the model does not classify images, Overloaded for all images together.
        """
        classifier = servable.classifier
        if classifier is None:
            raise BadRequest(f"the model {servable.name!r} does not classify images: {servable.no_classifier}")
        lines = self._lines_of(servable)
        with self._inside(servable, lines, len(files), bounded=True):
            if len(files) == 1:
                return [await self._outcome(servable, classifier, lines, files[0], top)]
            return await asyncio.gather(*(self._outcome(servable, classifier, lines, file, top) for file in files))

    def close(self) -> None:
        """End the threads; what waits is refused."""
        for lines in self._lines.values():
            lines.close()
        self._runners.close()
        for threads in (self._threads, self._large_images, self._large_bodies):
            threads.shutdown(wait=False, cancel_futures=True)

    def _inside(self, servable: Servable, lines: Lines, tasks: int, *, bounded: bool) -> _Inside:
        counted = tasks if bounded else 0
        if counted and lines.bounded + counted > self._settings.queue:
            raise _overloaded(servable, lines.bounded)
        return _Inside(lines, tasks, counted)

    def _called(self, called: Called) -> None:
        for callback in self._on_call:
            callback(called)

    def _batches(self, servable: Servable) -> bool:
        """Do requests of this model's tensors share calls?"""
        if self._settings.enable_per_model_batching_parameters:
            return servable.batching is not None
        return self._batching is not None

    def _lines_of(self, servable: Servable) -> Lines:
        lines = self._lines.get(servable)
        if lines is None:
            settings = self._settings
            batching = servable.batching if settings.enable_per_model_batching_parameters else self._batching
            lines = self._lines[servable] = Lines(
                servable, self._runners, batching, self._called,
                max_batch=settings.max_batch, batch_wait=settings.batch_wait,
            )  # fmt: skip
        return lines

    async def _outcome(
        self, servable: Servable, classifier: Classifier, lines: Lines, file: bytes, top: int
    ) -> Answer | ClusterError:
        try:
            started = time.monotonic()
            array = await self._decoded(classifier, file)
            decoded = time.monotonic() - started
            ran = await lines.classify(classifier, array)
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

    async def _decoded(self, classifier: Classifier, file: bytes) -> Array:
        """The image in `file`, packed. Large ones have threads of their own: nobody's small one waits for them."""

        def decode(*, hurry: bool) -> Array:
            return classifier.pack(self._decode(classifier, file, hurry=hurry))

        try:
            return await self.in_thread(partial(decode, hurry=True))
        except images.TakesLong:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._large_images, partial(decode, hurry=False))

    def _decode(self, classifier: Classifier, file: bytes, *, hurry: bool) -> Item:
        if isinstance(classifier.takes, Pixels):
            return images.to_pixels(file, classifier.takes, self._settings.max_pixels, hurry=hurry)
        return images.to_encoded(file, self._settings.max_pixels, hurry=hurry)


class _Inside:
    """Tasks are on their way, and `counted` of them count, for as long as the block lasts."""

    __slots__ = ("_counted", "_lines", "_tasks")

    def __init__(self, lines: Lines, tasks: int, counted: int) -> None:
        self._lines = lines
        self._tasks = tasks
        self._counted = counted

    def __enter__(self) -> None:
        self._lines.inside += self._tasks
        self._lines.bounded += self._counted

    def __exit__(self, *_: object) -> None:
        self._lines.inside -= self._tasks
        self._lines.bounded -= self._counted


def _overloaded(servable: Servable, inside: int) -> Overloaded:
    return Overloaded(f"the model {servable.name!r} has {inside} requests to work on here already", queue=inside)


def _sorted(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """The tensors by name, so that callers who name them in another order share calls, and where each of them was."""
    order = sorted(range(len(tensors)), key=lambda index: tensors[index].name)
    return [tensors[index] for index in order], order


def best(labels: Sequence[str], scores: Scores, top: int) -> tuple[Prediction, ...]:
    """The `top` highest scores with their labels, in falling order; equal ones in the order of the labels."""
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(Prediction(labels[index], scores[index]) for index in order)
