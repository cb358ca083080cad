"""The signatures of a TensorFlow Lite file, from its metadata or from the names of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from flatbuffers import flexbuffers

from worker.models.servable import Signature, Tensor
from worker.models.signatures import DEFAULT, definition_of, new_signature
from worker.models.tensorflow_quietly import tf

from tensorflow.core.protobuf import meta_graph_pb2  # isort: skip  # TensorFlow is there already, quietly
from tensorflow.lite.python import schema_py_generated  # isort: skip

METADATA: Final = "signature_defs_metadata"
"""Under this name TensorFlow puts SignatureDefs into a file: a flexbuffers map from keys to their serialised form."""


class LiteTensors:
    """The inputs and outputs of a model, as an interpreter describes them."""

    def __init__(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        self.inputs = {detail["name"]: _tensor(detail) for detail in inputs}
        self.outputs = {detail["name"]: _tensor(detail) for detail in outputs}
        self.shapes = {detail["index"]: tuple(map(int, detail["shape"])) for detail in inputs}
        """The shape that each input has before it is resized, by number."""
        self._inputs: dict[str, int] = {detail["name"]: detail["index"] for detail in inputs}
        self._outputs: dict[str, int] = {detail["name"]: detail["index"] for detail in outputs}
        self._types = {detail["index"]: detail["dtype"] for detail in inputs}

    def input(self, name: str) -> int:
        """The number of the input with this name."""
        return self._inputs[name]

    def output(self, name: str) -> int:
        """The number of the output with this name."""
        return self._outputs[name]

    def numpy_type(self, index: int) -> type:
        """What NumPy calls the type of the input with this number."""
        return object if self._types[index] is np.bytes_ else self._types[index]


def lite_signatures(content: bytes, tensors: LiteTensors) -> dict[str, Signature]:
    """The signatures of the file with this content. Raises ValueError if they do not fit its tensors.

    A single one is the default one, whatever its key is.
    """
    found = {key: _read(key, definition, tensors) for key, definition in _definitions(content).items()}
    if not found:
        return {DEFAULT: new_signature(_by_short_names(tensors.inputs), _by_short_names(tensors.outputs))}
    return {DEFAULT: next(iter(found.values()))} if len(found) == 1 else found


def _definitions(content: bytes) -> dict[str, Any]:
    model = schema_py_generated.Model.GetRootAs(content, 0)
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name() == METADATA.encode():
            packed = flexbuffers.GetRoot(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()).AsMap
            return {
                str(key.AsKey): meta_graph_pb2.SignatureDef.FromString(
                    bytes(value.AsBlob if value.IsBlob else value.AsStringBytes)
                )
                for key, value in zip(packed.Keys, packed.Values, strict=True)
            }
    return {}


def _read(key: str, definition: Any, tensors: LiteTensors) -> Signature:
    inputs = {alias: _named(key, info.name, tensors.inputs) for alias, info in definition.inputs.items()}
    outputs = {alias: _named(key, info.name, tensors.outputs) for alias, info in definition.outputs.items()}
    method = definition.method_name
    return Signature(inputs, outputs, method, definition_of(inputs, outputs, method).SerializeToString())


def _named(key: str, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor of that name, which may lack in the file the `:0` that it has in the signature."""
    tensor = tensors.get(name) or tensors.get(name.partition(":")[0])
    if tensor is None:
        raise ValueError(f"its signature {key!r} names a tensor {name!r}; it has {', '.join(sorted(tensors))}")
    return tensor


def _by_short_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By names without `:0` or the like, where that leaves them different."""
    short = {name.partition(":")[0]: tensor for name, tensor in tensors.items()}
    return short if len(short) == len(tensors) else dict(tensors)


def _tensor(detail: Mapping[str, Any]) -> Tensor:
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    dtype = "string" if detail["dtype"] is np.bytes_ else tf.dtypes.as_dtype(detail["dtype"]).name
    scale, zero = detail["quantization"]  # a scale of 0 is none
    quantized = (float(scale), int(zero)) if scale else None
    return Tensor(detail["name"], dtype, tuple(None if size < 0 else int(size) for size in shape), quantized)
