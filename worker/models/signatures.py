"""Signatures, read from a model's own description or made for a model that has none.

Each carries its `SignatureDef` in serialised form, because metadata shows it whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worker.models.servable import Signature, Tensor
from worker.models.tensorflow_quietly import tf

from tensorflow.core.framework import tensor_shape_pb2, types_pb2  # isort: skip  # TensorFlow is there already, quietly
from tensorflow.core.protobuf import meta_graph_pb2  # isort: skip

DEFAULT: Final = "serving_default"
"""The key of the signature that is used where a request names none."""
PREDICT: Final = "tensorflow/serving/predict"
"""The method of a signature that promises nothing about its tensors."""


def signature_of(definition: Any) -> Signature:
    """What a SignatureDef says."""
    return Signature(
        {key: _tensor(info) for key, info in definition.inputs.items()},
        {key: _tensor(info) for key, info in definition.outputs.items()},
        definition.method_name,
        definition.SerializeToString(),
        {key: tf.make_ndarray(value) for key, value in definition.defaults.items()},
    )


def new_signature(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Signature:
    """A signature for a model that has none."""
    return Signature(inputs, outputs, PREDICT, definition_of(inputs, outputs, PREDICT).SerializeToString())


def definition_of(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], method: str) -> Any:
    """The SignatureDef that says so."""
    return meta_graph_pb2.SignatureDef(
        inputs={key: _info(tensor) for key, tensor in inputs.items()},
        outputs={key: _info(tensor) for key, tensor in outputs.items()},
        method_name=method,
    )


def shape_of(proto: Any) -> tuple[int | None, ...] | None:
    """A TensorShapeProto in plain Python."""
    if proto.unknown_rank:
        return None
    return tuple(None if dimension.size < 0 else dimension.size for dimension in proto.dim)


def _tensor(info: Any) -> Tensor:
    known = info.dtype in types_pb2.DataType.values() and info.dtype  # an operation without a value has none
    return Tensor(info.name, tf.dtypes.as_dtype(info.dtype).name if known else "invalid", shape_of(info.tensor_shape))


def _info(tensor: Tensor) -> Any:
    shape = tensor_shape_pb2.TensorShapeProto(unknown_rank=tensor.shape is None)
    for size in tensor.shape or ():
        shape.dim.add(size=-1 if size is None else size)
    dtype = tf.dtypes.as_dtype(tensor.dtype).as_datatype_enum
    return meta_graph_pb2.TensorInfo(name=tensor.name, dtype=dtype, tensor_shape=shape)
