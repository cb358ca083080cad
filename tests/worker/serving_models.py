"""SavedModels as users of TensorFlow Serving have them: graphs of TensorFlow 1 with signatures of every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worker.models.tensorflow_quietly import tf

v1 = tf.compat.v1
Tensors = dict[str, Any]
PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{verb}" for verb in ("predict", "classify", "regress"))


def definition(inputs: Mapping[str, Any], outputs: Mapping[str, Any], method: str = PREDICT) -> Any:
    """A SignatureDef."""
    info = v1.saved_model.build_tensor_info
    return v1.saved_model.build_signature_def(
        {name: info(tensor) for name, tensor in inputs.items()},
        {name: info(tensor) for name, tensor in outputs.items()},
        method,
    )


def save(directory: Path, build: Callable[[], dict[str, Any]]) -> Path:
    """A SavedModel at `directory` (a version's) with the signatures that `build` makes in a fresh graph."""
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = build()
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
    return directory


def save_half_plus_two(directory: Path) -> Path:
    """y = x / 2 + 2, shapes as the well-known model declares them. Signatures: serving_default (x → y),
    predict_images (images → scores), and on tf.Example: regress_x_to_y, regress_x_to_y2, classify_x_to_y."""
    return _save_half_plus(directory, 2.0)


def save_half_plus_three(directory: Path) -> Path:
    """The same with 3."""
    return _save_half_plus(directory, 3.0)


def _save_half_plus(directory: Path, summand: float) -> Path:
    def build() -> dict[str, Any]:
        half = v1.get_variable("a", initializer=0.5, use_resource=False)
        x = v1.placeholder(tf.float32, [None, 1], name="x")
        y = tf.add(tf.multiply(half, x), summand, name="y")
        return {
            "serving_default": definition({"x": x}, {"y": y}),
            "predict_images": definition({"images": x}, {"scores": y}),
            **_of_examples(lambda feature: half * feature + summand),
        }

    return save(directory, build)


def _of_examples(function: Callable[[Any], Any]) -> dict[str, Any]:
    examples = v1.placeholder(tf.string, [None], name="tf_example")
    features = v1.io.parse_example(
        examples,
        {
            "x": v1.io.FixedLenFeature([1], tf.float32),
            "x2": v1.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        },
    )
    y, y2 = function(features["x"]), function(features["x2"])
    inputs = {"inputs": examples}
    return {
        "regress_x_to_y": definition(inputs, {"outputs": y}, REGRESS),
        "regress_x_to_y2": definition(inputs, {"outputs": y2}, REGRESS),
        "classify_x_to_y": definition(inputs, {"scores": y}, CLASSIFY),
    }


def save_examples(directory: Path) -> Path:
    """Features x (one float, needed), name (text) and count (an integer), both of which may be left out. Signatures:
    classify (classes name and "other", scores x and 1 - x), classes_only, regress (x + count), regress_flat (the same
    of shape [batch])."""

    def build() -> dict[str, Any]:
        examples = v1.placeholder(tf.string, [None], name="examples")
        features = v1.io.parse_example(
            examples,
            {
                "x": v1.io.FixedLenFeature([1], tf.float32),
                "name": v1.io.FixedLenFeature([1], tf.string, default_value=[b"nameless"]),
                "count": v1.io.FixedLenFeature([1], tf.int64, default_value=[0]),
            },
        )
        x, name = features["x"], features["name"]
        classes = tf.concat([name, tf.fill(tf.shape(name), "other")], 1)
        value = x + tf.cast(features["count"], tf.float32)
        inputs = {"inputs": examples}
        return {
            "serving_default": definition(inputs, {"classes": classes, "scores": tf.concat([x, 1 - x], 1)}, CLASSIFY),
            "classes_only": definition(inputs, {"classes": classes}, CLASSIFY),
            "regress": definition(inputs, {"outputs": value}, REGRESS),
            "regress_flat": definition(inputs, {"outputs": value[:, 0]}, REGRESS),
        }

    return save(directory, build)


def save_add(directory: Path) -> Path:
    """serving_default: a, b → sum, difference (int32, any shape). `first`: a, b → a's first row, which is no batch."""

    def build() -> dict[str, Any]:
        a, b = (v1.placeholder(tf.int32, None, name=name) for name in "ab")
        inputs = {"a": a, "b": b}
        return {
            "serving_default": definition(inputs, {"sum": a + b, "difference": a - b}),
            "first": definition(inputs, {"first": a[:1], "all": tf.identity(a)}),
        }

    return save(directory, build)


def save_identity(directory: Path, dtype: Any) -> Path:
    """serving_default: x → y, of that type and any shape."""

    def build() -> dict[str, Any]:
        x = v1.placeholder(dtype, None, name="x")
        return {"serving_default": definition({"x": x}, {"y": tf.identity(x)})}

    return save(directory, build)


def save_identities(directory: Path, *dtypes: Any) -> Path:
    """One signature for each type, by its name: x → y, of that type and any shape."""

    def build() -> dict[str, Any]:
        pairs = {dtype.name: v1.placeholder(dtype, None) for dtype in dtypes}
        return {name: definition({"x": x}, {"y": tf.identity(x)}) for name, x in pairs.items()}

    return save(directory, build)


def save_strings(directory: Path) -> Path:
    """Strings of any shape: serving_default x → y; `bytes` x → y_bytes; `length` image_bytes → length (int32)."""

    def build() -> dict[str, Any]:
        x = v1.placeholder(tf.string, None, name="x")
        y = tf.identity(x)
        return {
            "serving_default": definition({"x": x}, {"y": y}),
            "bytes": definition({"x": x}, {"y_bytes": y}),
            "length": definition({"image_bytes": x}, {"length": tf.strings.length(x)}),
        }

    return save(directory, build)


def save_failing(directory: Path) -> Path:
    """serving_default: x → y, fails for a negative x with TensorFlow's InvalidArgument. `nothing`: no input."""

    def build() -> dict[str, Any]:
        x = v1.placeholder(tf.float32, None, name="x")
        with tf.control_dependencies([v1.debugging.assert_non_negative(x, message="x is negative")]):
            y = tf.identity(x)
        return {"serving_default": definition({"x": x}, {"y": y}), "nothing": definition({}, {"y": tf.constant(1.0)})}

    return save(directory, build)


def save_convolution(directory: Path) -> Path:
    """serving_default: images → a filter's answers to them."""

    def build() -> dict[str, Any]:
        images = v1.placeholder(tf.float32, [None, 4, 4, 3], name="images")
        filters = tf.get_static_value(tf.ones([3, 3, 3, 1]))
        return {"serving_default": definition({"images": images}, {"y": tf.nn.conv2d(images, filters, 1, "SAME")})}

    return save(directory, build)


def save_variant(directory: Path, build: Callable[[], tuple[Tensors, Tensors]], method: str = PREDICT) -> Path:
    """A model whose serving_default has the inputs and outputs that `build` makes."""
    return save(directory, lambda: {"serving_default": definition(*build(), method)})
