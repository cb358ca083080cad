"""The first calls of a model, made before anybody waits for them.

TensorFlow prepares a graph anew for each input shape it meets, which can take a hundred times as long as a call. So
every batch size that will be used is run once, and a model that cannot run at all is found out before it is announced.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.models.preprocessing import Pixels
from worker.models.savedmodel import first_line
from worker.models.servable import Encoded, Item, ModelProblem
from worker.models.tensorflow_quietly import tf

log = logging.getLogger(__name__)


def sample(wanted: Encoded | Pixels) -> Item:
    """A gray image in the form that the model wants."""
    if isinstance(wanted, Pixels):
        return np.zeros((wanted.height, wanted.width, wanted.channels), dtype=wanted.dtype)
    encoded: bytes = tf.io.encode_jpeg(np.full((256, 256, 3), 128, np.uint8)).numpy()
    return encoded


def warm_up(
    what: str, run: Callable[[Sequence[Item]], NDArray[np.float32]], item: Item, sizes: Sequence[int]
) -> NDArray[np.float32]:
    """Run each batch size once. The result is the scores of the last call. Raises ModelProblem."""
    started = time.monotonic()
    try:
        for size in sizes:
            scores = run([item] * size)
    except Exception as error:  # whatever the model raises
        raise ModelProblem(f"{what} does not run: {first_line(error)}") from error
    log.debug("%s: warmed batches of %s in %.1f s", what, ", ".join(map(str, sizes)), time.monotonic() - started)
    return scores
