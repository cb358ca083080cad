"""The network behind `worker.digits`: how a picture becomes ink, what learns from it, and what is exported.

This is the half that needs TensorFlow and scikit-learn; `worker.digits` imports it once there is something to make.
Two things must stay true: training sees its pictures through `preprocess`, the very function that is exported, and the
same versions of the libraries make the same model (everything random is seeded).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

LABELS: Final = tuple("0123456789")
INPUT: Final = "image_bytes"
OUTPUT: Final = "scores"

SEED: Final = 20
EPOCHS: Final = 12
SIDE: Final = 8
"""Width and height of the training pictures, in pixels."""
CANVAS: Final = 64
"""Width and height at which a picture is searched for its digit."""
SAMPLE_SIDE: Final = 256
BIG_SIDE: Final = 2000

Pictures = Any  # uint8[n, height, width, 1], dark ink on white
Classify = Callable[[list[bytes]], Any]  # encoded images in, float[n, 10] out


def handwriting() -> tuple[Pictures, Any, Pictures, Any]:
    """Pictures to learn from and their labels int[n]; pictures to be judged by and theirs."""
    digits = load_digits()
    seen, unseen, seen_labels, unseen_labels = train_test_split(
        digits.images, digits.target, test_size=0.2, random_state=SEED, stratify=digits.target
    )
    return _draw(seen, CANVAS), seen_labels, _draw(unseen, SAMPLE_SIDE), unseen_labels


def _draw(images: Any, side: int) -> Pictures:
    """Scans float[n, 8, 8] of ink from 0 to 16 as a person would show them."""
    smooth = tf.image.resize(images[..., None], (side, side), "bicubic")
    return tf.cast(tf.clip_by_value(255.0 - smooth * 255.0 / 16.0, 0.0, 255.0), tf.uint8).numpy()


def preprocess(grey: Any) -> Any:
    """The digit in a picture float[height, width, 1] of any size and brightness: ink float[8, 8] from 0 to 1.

    Its border tells what is paper, its darkest and its brightest spot tell the contrast, the ink tells where to look:
    so white chalk on a board is read as well, and a small digit on a large sheet.
    """
    canvas = tf.image.resize(grey[None], (CANVAS, CANVAS), "area")[0, ..., 0]
    low, high = tf.reduce_min(canvas), tf.reduce_max(canvas)
    contrast = tf.math.divide_no_nan(canvas - low, high - low)
    border = tf.concat([contrast[0], contrast[-1], contrast[:, 0], contrast[:, -1]], axis=0)
    ink = tf.where(tf.reduce_mean(border) > 0.5, 1.0 - contrast, contrast)

    top, height = _extent(tf.reduce_max(ink, axis=1))
    left, width = _extent(tf.reduce_max(ink, axis=0))
    reach = tf.maximum(tf.maximum(height, width), SIDE) // 2
    corner = tf.stack([top + height // 2, left + width // 2]) - reach + CANVAS
    padded = tf.pad(ink, [[CANVAS, CANVAS], [CANVAS, CANVAS]])
    square = tf.slice(padded, corner, tf.stack([2 * reach, 2 * reach]))
    return tf.ensure_shape(tf.image.resize(square[None, ..., None], (SIDE, SIDE), "area")[0, ..., 0], (SIDE, SIDE))


def _extent(profile: Any) -> tuple[Any, Any]:
    """Where the strong part of float[n] begins and how long it is."""
    strong = tf.cast(tf.where(profile > 0.5)[:, 0], tf.int32)
    strong = tf.cond(tf.size(strong) > 0, lambda: strong, lambda: tf.range(CANVAS))  # a blank sheet: all of it
    return strong[0], strong[-1] - strong[0] + 1


def _decode(encoded: Any) -> Any:
    """A JPEG, PNG, BMP or GIF (first frame) as float[height, width, 1] from 0 to 255; transparency is white paper."""
    picture = tf.cast(tf.io.decode_image(encoded, channels=0, expand_animations=False), tf.float32)
    channels = tf.shape(picture)[-1]
    grey = tf.cond(
        channels >= 3,
        lambda: tf.tensordot(picture[..., :3], tf.constant([0.299, 0.587, 0.114]), 1),
        lambda: picture[..., 0],
    )
    opacity = tf.cond(channels % 2 == 0, lambda: picture[..., -1] / 255.0, lambda: tf.ones_like(grey))
    # A bitmap's fourth byte is mostly unused and nought, which means anything but "nothing to see".
    opacity = tf.cond(tf.reduce_any(opacity > 0.0), lambda: opacity, lambda: tf.ones_like(grey))
    return (grey * opacity + 255.0 * (1.0 - opacity))[..., None]


def train(pictures: Pictures, labels: Any, say: Callable[[str], object]) -> keras.Model:
    """A network from ink float[n, 8, 8] to probabilities float[n, 10]; `say` hears about each epoch."""
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    ink = tf.map_fn(preprocess, tf.cast(pictures, tf.float32)).numpy()
    moved = [_shifted(ink, down, right) for down, right in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))]
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((SIDE, SIDE)),
            layers.Reshape((SIDE, SIDE, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dense(len(LABELS), activation="softmax"),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    examples, answers = np.concatenate(moved), np.tile(labels, len(moved))
    network.fit(examples, answers, batch_size=64, epochs=EPOCHS, verbose=0, callbacks=[_Report(say)])
    return network


class _Report(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__()
        self._say = say

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._say(f"  epoch {epoch + 1:2} of {EPOCHS}: accuracy {logs['accuracy']:.3f}")


def _shifted(images: Any, down: int, right: int) -> Any:
    """Images float[n, height, width] moved by whole pixels; what comes in at the edge is empty."""
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]


def export(network: keras.Model, directory: Path) -> Classify:
    """Write a SavedModel with its labels, and return what was written: loaded again, so judge that."""
    module = tf.Module()
    # The module saves what it can reach. TensorFlow's variables, not Keras's wrappers of them: of those it would save
    # copies, and a session, as TensorFlow Serving's, would find the ones that the graph reads uninitialised.
    module.variables_of_network = [variable.value for variable in network.variables]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=INPUT)])  # type: ignore[untyped-decorator]
    def classify(image_bytes: Any) -> dict[str, Any]:
        ink = tf.map_fn(lambda encoded: preprocess(_decode(encoded)), image_bytes, fn_output_signature=tf.float32)
        return {OUTPUT: network(ink, training=False)}

    module.classify = classify
    tf.saved_model.save(module, str(directory), signatures={"serving_default": classify})
    extra = directory / "assets.extra"
    extra.mkdir()
    (extra / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    loaded = tf.saved_model.load(str(directory)).signatures["serving_default"]
    return lambda images: loaded(**{INPUT: tf.constant(images)})[OUTPUT].numpy()


def accuracy(classify: Classify, pictures: Pictures, labels: Any) -> float:
    """The share of pictures that the exported model reads right, from 0 to 1."""
    answers = classify([_png(picture) for picture in pictures]).argmax(axis=1)
    return float((answers == labels).mean())


def samples(classify: Classify, pictures: Pictures, labels: Any) -> Iterator[tuple[str, bytes]]:
    """File names and contents to try the model with: a PNG of each digit, and one JPEG as large as a photograph.

    Each is read right with certainty, also in negative; a digit of which there is no such picture is left out.
    """
    for digit in range(len(LABELS)):
        for picture in pictures[labels == digit]:
            if _certain(classify, [_png(picture), _png(255 - picture)], digit):
                yield f"{digit}.png", _png(picture)
                break
    for picture in pictures[labels == 3]:
        big = _photograph(picture)
        if _certain(classify, [big], 3):
            yield "big.jpg", big
            break


def _certain(classify: Classify, images: list[bytes], digit: int) -> bool:
    return bool((classify(images)[:, digit] > 0.9).all())


def _png(picture: Any) -> bytes:
    return bytes(tf.io.encode_png(picture).numpy())


def _photograph(picture: Any) -> bytes:
    """A digit on rough paper: the grain does not compress, which makes the file large, and means nothing."""
    drawn = tf.image.resize(tf.cast(picture, tf.float32), (BIG_SIDE, BIG_SIDE)).numpy() * 0.6 + 50
    grain = np.random.default_rng(SEED).normal(0, 25, (BIG_SIDE, BIG_SIDE, 3))
    return bytes(tf.io.encode_jpeg(np.clip(drawn + grain, 0, 255).astype(np.uint8), quality=92).numpy())
