"""The first calls of a model, made before anybody waits for them.

TensorFlow prepares a graph anew for each input shape it meets, which can take a hundred times as long as a call. So
every batch size that will be used is run once, and a model that cannot run at all is found out before it is announced.
"""

from __future__ import annotations

import logging
import time

import numpy as np
from numpy.typing import NDArray

from muster.errors import ClusterError
from worker.models.preprocessing import Pixels
from worker.models.savedmodel import first_line
from worker.models.servable import Classifier, Encoded, Item, ModelProblem, Run
from worker.models.tensorflow_quietly import tf

log = logging.getLogger(__name__)


def sample(wanted: Encoded | Pixels) -> Item:
    """A gray image in the form that the model wants."""
    if isinstance(wanted, Pixels):
        return np.zeros((wanted.height, wanted.width, wanted.channels), dtype=wanted.dtype)
    encoded: bytes = tf.io.encode_jpeg(np.full((256, 256, 3), 128, np.uint8)).numpy()
    return encoded


def warm_up(what: str, run: Run, classifier: Classifier) -> NDArray[np.float32]:
    """Call the classifier's function with each of its batch sizes. The result is the scores of the last call, for one
    item. Raises ModelProblem if it does not run.
    """
    one = classifier.pack(sample(classifier.takes))
    started = time.monotonic()
    try:
        for size in classifier.batch_sizes:
            (output,) = run(one if one.ndim == 0 else np.repeat(one, size, axis=0))
            scores = classifier.scores(output if one.ndim == 0 else output[:1])
    except ClusterError as error:
        raise ModelProblem(f"{what} does not run: {first_line(error)}") from error
    sizes = ", ".join(map(str, classifier.batch_sizes))
    log.debug("%s: warmed batches of %s in %.1f s", what, sizes, time.monotonic() - started)

    return scores
