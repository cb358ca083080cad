"""The view of a loaded model that classifies images: its tensors, its labels, the batch sizes it is called with.

Whether there is one is decided in `choosing`; here it is built and tried, because only a call shows how many scores
there are.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from muster.errors import ClusterError
from worker.models.choosing import Choice, choose
from worker.models.labels import Labels, class_numbers
from worker.models.own_labels import own_labels
from worker.models.preprocessing import Hints, Pixels
from worker.models.servable import Array, Classifier, Encoded, Item, ModelProblem, Servable, Tensor
from worker.models.warmup import warm_up

log = logging.getLogger(__name__)
LARGEST_BATCH = 256 * 2**20
"""Bytes of pixels. Models of very large images get smaller batches than the settings allow."""


def image_view(servable: Servable, hints: Hints, labels: Labels | None, max_batch: int) -> Classifier:
    """A warm view of `servable`. Raises ModelProblem if what the owner says does not fit, and Unfit."""
    what = f"the model {servable.name!r}"
    choice = choose(what, servable.signatures, hints)
    view = Classifier(
        choice.input, choice.output, choice.takes, (), _batch_sizes(choice, max_batch), _packer(choice.input),
        _judge(hints.scores == "logits", choice.output.quantized or (1.0, 0)),
    )  # fmt: skip
    classes = len(warm_up(what, servable.function([choice.input], [choice.output]), view))
    if labels is not None and len(labels.names) != classes:
        raise ModelProblem(f"{what} has {classes} outputs, but its labels in {labels.file} are {len(labels.names)}")
    names = labels.names if labels is not None else own_labels(servable, choice, view, classes)
    log.info("%s classifies: it %s, %d classes", what, _describe(choice.takes), classes)
    return dataclasses.replace(view, labels=names or class_numbers(classes))


def _batch_sizes(choice: Choice, limit: int) -> tuple[int, ...]:
    """Powers of two up to the limit, and the limit; where the model fixes its batch, only that."""
    if choice.input.shape is not None:
        fixed = choice.input.shape[0] if choice.input.shape else 1
        if fixed is not None:
            return (fixed,)
    if isinstance(choice.takes, Pixels):
        takes = choice.takes
        image = takes.height * takes.width * takes.channels * np.dtype(takes.dtype).itemsize
        limit = max(min(limit, LARGEST_BATCH // image), 1)
    powers = [1 << exponent for exponent in range(limit.bit_length()) if 1 << exponent < limit]
    return (*powers, limit)


def _packer(taken: Tensor) -> Callable[[Item], Array]:
    if taken.shape == ():
        return lambda item: np.array(item, dtype=object)
    if taken.dtype == "string":
        return lambda item: np.array([item], dtype=object)
    return lambda item: np.asarray(item)[np.newaxis]


def _judge(logits: bool, quantized: tuple[float, int]) -> Callable[[Array], NDArray[np.float32]]:
    scale, zero = quantized

    def scores(output: Array) -> NDArray[np.float32]:
        row: NDArray[np.float32] = np.asarray(output, dtype=np.float32).reshape(-1)
        if quantized != (1.0, 0):
            row = np.multiply(row - zero, scale, dtype=np.float32)
        if logits:
            powers = np.exp(row - row.max())
            row = np.divide(powers, powers.sum(), dtype=np.float32)
        if not np.isfinite(row).all():
            raise ClusterError("the model answered with scores that are not numbers")
        return row

    return scores


def _describe(takes: Encoded | Pixels) -> str:
    if isinstance(takes, Encoded):
        return "takes encoded images"
    return (
        f"takes {takes.height}×{takes.width}×{takes.channels} {takes.dtype}, {takes.resize}, {takes.filter}, "
        f"minus {takes.mean} over {takes.std}"
    )
