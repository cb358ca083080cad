"""Servables without a model file, and the direct way to what a classifier says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.models.servable import Array, Classifier, Encoded, Item, Servable, Signature, Tensor

IMAGE = Tensor("image:0", "string", (None,))
SCORES = Tensor("scores:0", "float32", (None, None))


def image_servable(
    name: str,
    call: Callable[[Array], Array],
    labels: tuple[str, ...] = ("x",),
    sizes: tuple[int, ...] = (1,),
    version: int = 1,
    close: Callable[[], None] = lambda: None,
) -> Servable:
    """A model of encoded images that is the function `call` from a batch of them to a batch of scores."""
    classifier = Classifier(
        IMAGE, SCORES, Encoded(), labels, sizes,
        lambda item: np.array([item], dtype=object), lambda output: np.asarray(output, np.float32).reshape(-1),
    )  # fmt: skip
    signatures = {"serving_default": Signature({"image": IMAGE}, {"scores": SCORES}, "tensorflow/serving/predict")}
    return Servable(name, version, signatures, lambda _inputs, _outputs: lambda array: [call(array)], close, classifier)


def scores(servable: Servable, items: Sequence[Item]) -> NDArray[np.float32]:
    """The scores of all items, from one call of the model."""
    classifier = servable.classifier
    assert classifier is not None, servable.no_classifier
    packed = [classifier.pack(item) for item in items]
    run = servable.function([classifier.input], [classifier.output])
    (output,) = run(packed[0] if packed[0].ndim == 0 else np.concatenate(packed))
    rows = [output] if packed[0].ndim == 0 else np.split(output, len(items))
    return np.stack([classifier.scores(row) for row in rows])
