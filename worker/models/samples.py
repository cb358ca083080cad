"""Made-up images, to try models with: noise of several hues, the same each time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from worker.models.preprocessing import Pixels
from worker.models.servable import Encoded, Item
from worker.models.tensorflow_quietly import tf

SIDE = 256


def images(takes: Encoded | Pixels, count: int) -> Iterator[Item]:
    """So many images in the form that the model takes."""
    random = np.random.default_rng(0)
    for _ in range(count):
        hue = random.uniform(0, 255, 3)
        if isinstance(takes, Pixels):
            pixels = random.uniform(0, 1, (takes.height, takes.width, takes.channels)) * hue[: takes.channels]
            yield ((pixels - np.array(takes.mean)) / np.array(takes.std)).astype(takes.dtype)
        else:
            noise = random.uniform(0, 1, (SIDE, SIDE, 3)) * hue
            encoded: bytes = tf.io.encode_jpeg(noise.astype(np.uint8)).numpy()
            yield encoded
