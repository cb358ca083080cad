"""The first calls of a model, made before anybody waits for them.

TensorFlow prepares a graph anew for each input shape it meets, which can take a hundred times as long as a call. So
every batch size that will be used is run once, with values that are made up where nobody gave any.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from muster.errors import ClusterError
from worker.models.choosing import Unfit
from worker.models.graph import first_line
from worker.models.samples import images
from worker.models.servable import Array, Classifier, Run, Servable, Tensor
from worker.models.tensorflow_quietly import tf

log = logging.getLogger(__name__)
LARGEST: Final = 64 * 2**20
"""Bytes of one made-up input. Larger ones are left to those who have a use for them."""


def warm_up(what: str, run: Run, classifier: Classifier) -> NDArray[np.float32]:
    """Call the classifier's function with each of its batch sizes. The result is the scores of the last call, for one
    item. Raises Unfit if it does not run, or gives another number of rows than it got.
    """
    one = classifier.pack(next(images(classifier.takes, 1)))
    started = time.monotonic()
    try:
        for size in classifier.batch_sizes:
            (output,) = run(one if one.ndim == 0 else np.repeat(one, size, axis=0))
            if one.ndim and (output.ndim == 0 or len(output) != size):
                raise Unfit(f"its output for {size} images has the shape {output.shape}, not one row for each")
            scores = classifier.scores(output if one.ndim == 0 else output[:1])
    except ClusterError as error:
        raise Unfit(f"it does not run with an image: {first_line(error)}") from error
    sizes = ", ".join(map(str, classifier.batch_sizes))
    log.debug("%s: warmed batches of %s in %.1f s", what, sizes, time.monotonic() - started)
    return scores


def rehearse(servable: Servable, keys: Collection[str], sizes: Sequence[int]) -> None:
    """Call the signatures with these keys once for each of the batch `sizes` with zeros, where their shapes are known.

    What the model says to that does not matter, for nobody asked. A call must not change anything.
    """
    for key in keys:
        signature = servable.signatures[key]
        inputs, outputs = list(signature.inputs.values()), list(signature.outputs.values())
        for arrays in _made_up(inputs, sizes):
            started = time.monotonic()
            try:
                servable.function(inputs, outputs)(*arrays)
            except Exception as error:  # noqa: BLE001  # whatever values without a meaning lead to
                log.debug("%r: %s takes no zeros: %s", servable, key, first_line(error))
                break
            log.debug("%r: warmed %s in %.1f s", servable, key, time.monotonic() - started)


def _made_up(inputs: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[list[Array]]:
    """Zeros for all inputs, in each of the batch sizes; in one if that is fixed, in none if a shape is not known."""
    shapes = [tensor.shape for tensor in inputs]
    if not all(shape is not None and None not in shape[1:] for shape in shapes):
        return
    batched = all(shape and shape[0] is None for shape in shapes)
    for size in sizes if batched else (1,):
        arrays = [zeros for tensor in inputs if (zeros := _zeros(tensor, size)) is not None]
        if len(arrays) < len(inputs):
            return
        yield arrays


def _zeros(tensor: Tensor, size: int) -> Array | None:
    shape = tuple(size if side is None else side for side in tensor.shape or ())
    if tensor.dtype == "string":
        return np.full(shape, b"", object)
    dtype = np.dtype(tf.dtypes.as_dtype(tensor.dtype).as_numpy_dtype)
    return np.zeros(shape, dtype) if math.prod(shape) * dtype.itemsize <= LARGEST else None
