"""Models whose right answer is known from the image: which of red, green and blue is strongest in it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worker.models.tensorflow_quietly import tf

LABELS = ("red", "green", "blue")
SIDE = 8


def picture(colour: str | tuple[int, ...] = "red", size: tuple[int, int] = (20, 30), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(colour: str = "red", size: tuple[int, int] = (20, 30)) -> bytes:
    return encoded(picture(colour, size))


def _scores(pixels: Any) -> Any:
    """float[n, h, w, 3] in 0…1 -> float[n, 3]"""
    return tf.nn.softmax(8 * tf.reduce_mean(pixels, [1, 2]))


def _decoded(data: Any) -> Any:
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    return tf.image.resize(tf.cast(image, tf.float32) / 255, (SIDE, SIDE))


def save(directory: Path, function: Callable[[Any], Any], spec: Any, labels: tuple[str, ...] | None = LABELS) -> Path:
    """A SavedModel at `directory` whose serving_default is `function` of one tensor like `spec`."""
    module = tf.Module()
    module.serve = tf.function(lambda image: {"scores": function(image)}, input_signature=[spec])
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serve})
    if labels:
        (directory / "assets.extra").mkdir()
        (directory / "assets.extra" / "labels.txt").write_text("\n".join(labels) + "\n")
    return directory


def save_string(directory: Path) -> Path:
    """Takes encoded images."""

    def classify(image: Any) -> Any:
        return _scores(tf.map_fn(_decoded, image, fn_output_signature=tf.TensorSpec([SIDE, SIDE, 3], tf.float32)))

    return save(directory, classify, tf.TensorSpec([None], tf.string, name="image"))


def save_float(directory: Path) -> Path:
    """Takes pixels from 0 to 1."""
    return save(directory, _scores, tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, name="image"))


def save_uint8(directory: Path) -> Path:
    """Takes pixels from 0 to 255."""
    spec = tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8, name="image")
    return save(directory, lambda image: _scores(tf.cast(image, tf.float32) / 255), spec)


def save_tf1(directory: Path) -> Path:
    """Written as TensorFlow 1 did: a graph, a session, a variable, and a signature of another name."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], name="image")
        weight = v1.get_variable("weight", initializer=8.0, use_resource=False)
        scores = tf.nn.softmax(weight * tf.reduce_mean(image, [1, 2]), name="scores")
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(directory))
        signature = v1.saved_model.predict_signature_def({"image": image}, {"scores": scores})
        builder.add_meta_graph_and_variables(session, ["serve"], {"classify_image": signature})
        builder.save()
    (directory / "labels.txt").write_text("\n".join(LABELS))
    return directory


def save_frozen(file: Path, batch: int | None = None) -> Path:
    """A frozen graph with the layers `input` and `final_result`, labels beside it."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        image = v1.placeholder(tf.float32, [batch, SIDE, SIDE, 3], name="input")
        tf.nn.softmax(8 * tf.reduce_mean(image, [1, 2]), name="final_result")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(graph.as_graph_def().SerializeToString())
    (file.parent / "labels.txt").write_text("\n".join(LABELS))
    return file


def save_keras(file: Path) -> Path:
    """A `.keras` file, labels beside it."""
    keras = tf.keras
    inputs = keras.Input((SIDE, SIDE, 3))
    means = keras.layers.GlobalAveragePooling2D()(inputs)
    dense = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(inputs, dense(means))
    dense.set_weights([8 * np.eye(3, dtype=np.float32), np.zeros(3, np.float32)])
    file.parent.mkdir(parents=True, exist_ok=True)
    model.save(file)
    (file.parent / "labels.txt").write_text("\n".join(LABELS))
    return file
