"""The labels that a model brings along itself: a text beside each score, in an output named `classes` or `labels`.

Such texts count only if they are the same for all images, and it is certain that the scores are not sorted together
with them: then the first score would be the best one's, whichever that is.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from muster.errors import ClusterError
from worker.models.choosing import Choice, Unfit
from worker.models.samples import images
from worker.models.servable import Array, Classifier, Item, Servable, Tensor

NAMES: Final = ("classes", "labels")
LOOKS: Final = 16
"""So many images are shown to a model to see whether its texts stay in their places."""


def own_labels(servable: Servable, choice: Choice, view: Classifier, classes: int) -> tuple[str, ...]:
    """The labels, one for each of the model's `classes`; none if it names none. Raises Unfit where it is in doubt."""
    found = {key: choice.signature.outputs[key] for key in NAMES if key in choice.signature.outputs}
    texts = {key: tensor for key, tensor in found.items() if tensor.dtype == "string"}
    if len(texts) != 1:
        return ()
    (key, tensor), *_ = texts.items()
    try:
        rows = [_row(servable, choice, view, tensor, image) for image in images(view.takes, LOOKS)]
    except ClusterError as error:
        raise Unfit(f"it does not run: {error.message}") from error
    names = rows[0][1]
    if len(names) != classes:
        return ()
    if any(other != names for _, other in rows):
        raise Unfit(f"its output {key!r} names the classes in another order for each image")
    if classes > 1 and all((np.diff(scores) <= 0).all() for scores, _ in rows):
        raise Unfit(f"its output {key!r} may name the classes in another order for each image: name them in labels.txt")
    return tuple(name.decode("utf-8", "replace") for name in names)


def _row(
    servable: Servable, choice: Choice, view: Classifier, texts: Tensor, image: Item
) -> tuple[Array, tuple[bytes, ...]]:
    """The scores and the texts for one image."""
    packed = view.pack(image)
    if packed.ndim:
        packed = np.repeat(packed, view.batch_sizes[0], axis=0)
    scores, names = servable.function([choice.input], [choice.output, texts])(packed)
    if packed.ndim:
        scores, names = scores[:1], names[:1] if names.ndim > 1 else names
    return view.scores(scores), tuple(names.reshape(-1))
