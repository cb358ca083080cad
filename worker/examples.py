"""Classify and regress: signatures that take `tf.Example` records, and what their outputs mean.

Both doors, REST and gRPC, serialise a client's examples to a vector of strings, feed it to the one input of the
signature, and read labels and scores, or a number, for each example. The sentences are TensorFlow Serving's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from worker.messages.tensors import SignatureDef
from worker.models.servable import Array, Servable, Signature, Tensor
from worker.status import Code, StatusError
from worker.tensor_types import type_of

CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"
DEFAULT_SIGNATURE: Final = "serving_default"


@dataclass(frozen=True, slots=True)
class Examples:
    """The tensors that one signature uses: serialised examples go into `input`, `outputs` come out.

    `names` says what each output is: `classes`, `scores` or `outputs`.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    names: tuple[str, ...]


def signature_for_examples(servable: Servable, name: str) -> Signature:
    """The signature of that name, `serving_default` if it is empty. Raises StatusError."""
    name = name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise _invalid(f"No signature was found with the name: {name}")
    return signature


def behind(context: bytes, examples: Sequence[bytes], most: int) -> Array:
    """Serialised examples, each behind the context; StatusError if repeating that takes more than `most` bytes."""
    if len(context) * len(examples) > most:
        raise _invalid(
            f"a context of {len(context)} bytes for {len(examples)} examples takes more than {most} bytes (--max-fill)"
        )
    records = np.empty(len(examples), object)
    records[:] = [context + example for example in examples]
    return records


def classification(signature: Signature, check_method: bool = False) -> Examples:
    """How to classify with `signature`; `check_method` demands one made for it. Raises StatusError if it is unfit."""
    _check(signature, "classification", CLASSIFY, check_method)
    if len(signature.outputs) not in (1, 2):
        raise _invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    source = _input(signature, "classification")
    names = tuple(name for name in ("classes", "scores") if name in signature.outputs)
    if not names:
        raise _unfit(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {_described(signature)}"
        )
    return Examples(source, tuple(signature.outputs[name] for name in names), names)


def regression(signature: Signature, check_method: bool = False) -> Examples:
    """How to regress with `signature`; `check_method` demands one made for it. Raises StatusError if it is unfit."""
    _check(signature, "regression", REGRESS, check_method)
    if len(signature.outputs) != 1:
        raise _invalid("Expected one output Tensor.")
    source = _input(signature, "regression")
    if "outputs" not in signature.outputs:
        raise _unfit(f"No regression outputs found in SignatureDef: {_described(signature)}")
    return Examples(source, (signature.outputs["outputs"],), ("outputs",))


def classifications(examples: Examples, arrays: Sequence[Array], count: int) -> list[list[tuple[bytes, float]]]:
    """For each of `count` examples, label and score of every class; `arrays` are the values of `examples.outputs`.

    The label is empty if the model has no classes, the score 0 if it has no scores. Raises StatusError.
    """
    found = dict(zip(examples.names, arrays, strict=True))
    for name, wanted in (("classes", "DT_STRING"), ("scores", "DT_FLOAT")):
        if name in found:
            _check_matrix(found[name], name, wanted, count)
    if "classes" not in found:
        return [[(b"", score) for score in row] for row in found["scores"].tolist()]
    classes = found["classes"]
    if "scores" not in found:
        return [[(label, 0.0) for label in row] for row in classes.tolist()]
    scores = found["scores"]
    if classes.shape[1] != scores.shape[1]:
        raise _invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    return [list(zip(*row, strict=True)) for row in zip(classes.tolist(), scores.tolist(), strict=True)]


def regressions(examples: Examples, arrays: Sequence[Array], count: int) -> list[float]:
    """The number for each of `count` examples; `arrays` are the values of `examples.outputs`. Raises StatusError."""
    (values,) = arrays
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise _invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(values)}"
        )
    if len(values) != count:
        raise _invalid(f"Input batch size did not match output batch size: {count} vs. {len(values)}")
    if (kind := type_of(values).enum) != "DT_FLOAT":
        raise _invalid(f"Expected output Tensor of DT_FLOAT.  Got: {kind}")
    numbers: list[float] = values.ravel().tolist()
    return numbers


def _check(signature: Signature, what: str, method: str, check_method: bool) -> None:
    if check_method and signature.method_name != method:
        raise _invalid(f"Expected {what} signature method_name to be {method}. Was: {signature.method_name}")
    if len(signature.inputs) != 1:
        raise _invalid("Expected one input Tensor.")


def _input(signature: Signature, what: str) -> Tensor:
    if "inputs" not in signature.inputs:
        raise _unfit(f"No {what} inputs found in SignatureDef: {_described(signature)}")
    return signature.inputs["inputs"]


def _check_matrix(array: Array, name: str, wanted: str, count: int) -> None:
    if array.ndim != 2:
        raise _invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
    if (kind := type_of(array).enum) != wanted:
        raise _invalid(f"Expected {name} Tensor of {wanted}. Got: {kind}")
    if len(array) != count:
        raise _invalid(f"Expected {name} output batch size of {count}. Got: {len(array)}")


def _shape(array: Array) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _described(signature: Signature) -> Any:
    return SignatureDef.FromString(signature.definition)


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)


def _unfit(message: str) -> StatusError:
    return StatusError(Code.FAILED_PRECONDITION, message)
