"""TensorFlow Lite files, as converters and their tools leave them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import flexbuffers

from worker.models.tensorflow_quietly import tf

from tensorflow.lite.python import schema_py_generated as schema  # isort: skip

COLOURS = tf.TensorSpec([None, 8, 8, 3], tf.float32, name="image")


def convert(function: Callable[..., Any], *specs: Any) -> bytes:
    """`function` of tensors like `specs`, converted."""
    module = tf.Module()
    module.function = tf.function(function, input_signature=specs)
    concrete = module.function.get_concrete_function()
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert()
    return content


def colours() -> bytes:
    """Which of red, green and blue is strongest in an image of 8 × 8 pixels."""
    return convert(lambda image: tf.nn.softmax(8 * tf.reduce_mean(image, [1, 2])), COLOURS)


def quantized_colours(dtype: Any) -> bytes:
    """The same in 8-bit integers, signed or not, for pixels from 0 to 255."""
    module = tf.Module()
    weights = tf.constant(np.eye(3).reshape(1, 1, 3, 3), tf.float32)

    def classify(image: Any) -> Any:
        return tf.nn.softmax(8 * tf.reduce_mean(tf.nn.conv2d(image, weights, 1, "SAME"), [1, 2]))

    module.function = tf.function(classify, input_signature=[tf.TensorSpec([1, 8, 8, 3], tf.float32, name="image")])
    concrete = module.function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([np.full((1, 8, 8, 3), value, np.float32)] for value in (0, 1))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = dtype
    content: bytes = converter.convert()
    return content


def with_signatures(content: bytes, definitions: Mapping[str, Any]) -> bytes:
    """The file with SignatureDefs in its metadata."""
    packed = flexbuffers.Builder()
    with packed.Map():
        for key, definition in definitions.items():
            packed.Key(key)
            # As TensorFlow writes them: strings, though they are no text.
            packed._WriteBlob(definition.SerializeToString(), append_zero=True, type_=flexbuffers.Type.STRING)
    return _with_metadata(content, "signature_defs_metadata", bytes(packed.Finish()))


def with_labels(content: bytes, labels: str, name: str = "labels.txt") -> bytes:
    """The file with an archive at its end."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, labels)
    return content + archive.getvalue()


def tensor_names(content: bytes) -> tuple[list[str], list[str]]:
    """The names of inputs and outputs, in the file's order."""
    interpreter = tf.lite.Interpreter(model_content=content)
    details = interpreter.get_input_details(), interpreter.get_output_details()
    inputs, outputs = ([detail["name"] for detail in side] for side in details)
    return inputs, outputs


def with_names(content: bytes, name: Callable[[str], str]) -> bytes:
    """The file with its tensors' names changed."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for tensor in model.subgraphs[0].tensors:
        tensor.name = name(tensor.name.decode())
    return _packed(model)


def _with_metadata(content: bytes, name: str, value: bytes) -> bytes:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(value, np.uint8)
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return _packed(model)


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
