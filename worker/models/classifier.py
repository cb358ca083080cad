"""The view of a graph that classifies images: which signature, which tensors, which labels, which batch sizes.

What the signature leaves open, the model's `Hints` say; what neither says is a `ModelProblem` with the question in it,
never a guess.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from muster.errors import ClusterError
from worker.models.graph import Graph
from worker.models.labels import Labels, class_numbers
from worker.models.preprocessing import Hints, Pixels
from worker.models.servable import Array, Classifier, Encoded, Item, ModelProblem, Signature, Tensor
from worker.models.warmup import warm_up

log = logging.getLogger(__name__)
T = TypeVar("T")

FLOATS = ("float32", "float16", "float64")
INTEGERS = ("uint8", "int32", "int64")


def image_classifier(what: str, graph: Graph, hints: Hints, labels: Labels | None, max_batch: int) -> Classifier:
    """A warm view of `graph`, which `what` names in sentences. Raises ModelProblem."""
    signature = _signature(what, graph.signatures, hints)
    taken = _input(what, signature, hints)
    given = _output(what, signature, hints)
    wanted = _item(what, taken, hints)
    view = Classifier(
        taken, given, wanted, (), _batch_sizes(taken, max_batch), _packer(taken), _judge(hints.scores == "logits")
    )
    classes = len(warm_up(what, graph.function([taken], [given]), view))
    if labels is not None and len(labels.names) != classes:
        raise ModelProblem(f"{what} has {classes} outputs, but its labels in {labels.file} are {len(labels.names)}")
    log.info("%s classifies: it %s, %d classes", what, _describe(wanted), classes)
    return dataclasses.replace(view, labels=class_numbers(classes) if labels is None else labels.names)


def _signature(what: str, signatures: Mapping[str, Signature], hints: Hints) -> Signature:
    # What begins so is bookkeeping of the SavedModel format, not an entrance.
    signatures = {key: signature for key, signature in signatures.items() if not key.startswith("__saved_model")}
    if not signatures:
        raise ModelProblem(f"{what} has no signature, so nothing says where its input is")
    if hints.signature is not None:
        return _named(what, "signature", signatures, hints.signature)
    if "serving_default" in signatures:
        return signatures["serving_default"]
    return _only(what, "signature", signatures)


def _input(what: str, signature: Signature, hints: Hints) -> Tensor:
    if hints.input is not None:
        return _named(what, "input", signature.inputs, hints.input)
    return _only(what, "input", signature.inputs)


def _output(what: str, signature: Signature, hints: Hints) -> Tensor:
    if hints.output is not None:
        return _named(what, "output", signature.outputs, hints.output)
    fit = {key: tensor for key, tensor in signature.outputs.items() if tensor.dtype in FLOATS}
    if not fit:
        raise ModelProblem(f"{what} has no output of floating-point scores, so it does not classify")
    return _only(what, "output", fit)


def _named(what: str, kind: str, there: Mapping[str, T], name: str) -> T:
    if name not in there:
        raise ModelProblem(f"{what} has no {kind} {name!r}; it has {', '.join(sorted(there))}")
    return there[name]


def _only(what: str, kind: str, there: Mapping[str, T]) -> T:
    if len(there) != 1:
        raise ModelProblem(
            f"{what} has {len(there)} {kind}s ({', '.join(sorted(there))}): name one as {kind!r} in preprocessing.json"
        )
    return next(iter(there.values()))


def _item(what: str, tensor: Tensor, hints: Hints) -> Encoded | Pixels:
    if tensor.dtype == "string":
        return Encoded()
    if tensor.dtype not in (*FLOATS, *INTEGERS) or (tensor.shape is not None and len(tensor.shape) != 4):
        raise ModelProblem(
            f"{what} does not take images: its input is {tensor.dtype} of shape {_shape(tensor)}, "
            "not encoded images (string) or pixels of shape (batch, height, width, channels)"
        )
    _, height, width, channels = tensor.shape or (None, None, None, 3)
    if channels not in (1, 3):
        raise ModelProblem(f"{what} takes {channels or 'any number of'} channels; images have 1 or 3, and come last")
    plain = tensor.dtype in INTEGERS
    return Pixels(
        height=_side(what, "height", height, hints.height),
        width=_side(what, "width", width, hints.width),
        channels=channels,
        dtype=tensor.dtype,
        resize=hints.resize or "stretch",
        filter=hints.filter or "bilinear",
        mean=hints.mean or (0.0,),
        std=hints.std or (1.0 if plain else 255.0,),
        bgr=hints.channels == "BGR",
    )


def _side(what: str, kind: str, fixed: int | None, hint: int | None) -> int:
    if fixed is not None and hint is not None and fixed != hint:
        raise ModelProblem(f"{what} takes images of {kind} {fixed}, not {hint}")
    side = fixed or hint
    if side is None:
        raise ModelProblem(
            f"{what} takes images of any {kind}: say which it was trained with, "
            f"as {kind!r} in preprocessing.json or with --input-{kind}"
        )
    return side


def _batch_sizes(tensor: Tensor, limit: int) -> tuple[int, ...]:
    """Powers of two up to the limit, and the limit; where the model fixes its batch, only that."""
    if tensor.shape is not None:
        fixed = tensor.shape[0] if tensor.shape else 1
        if fixed is not None:
            return (fixed,)
    powers = [1 << exponent for exponent in range(limit.bit_length()) if 1 << exponent < limit]
    return (*powers, limit)


def _packer(taken: Tensor) -> Callable[[Item], Array]:
    if taken.shape == ():
        return lambda item: np.array(item, dtype=object)
    if taken.dtype == "string":
        return lambda item: np.array([item], dtype=object)
    return lambda item: np.asarray(item)[np.newaxis]


def _judge(logits: bool) -> Callable[[Array], NDArray[np.float32]]:
    def scores(output: Array) -> NDArray[np.float32]:
        row: NDArray[np.float32] = np.asarray(output, dtype=np.float32).reshape(-1)
        if logits:
            powers = np.exp(row - row.max())
            row = np.divide(powers, powers.sum(), dtype=np.float32)
        if not np.isfinite(row).all():
            raise ClusterError("the model answered with scores that are not numbers")
        return row

    return scores


def _describe(wanted: Encoded | Pixels) -> str:
    if isinstance(wanted, Encoded):
        return "takes encoded images"
    return (
        f"takes {wanted.height}×{wanted.width}×{wanted.channels} {wanted.dtype}, {wanted.resize}, {wanted.filter}, "
        f"minus {wanted.mean} over {wanted.std}"
    )


def _shape(tensor: Tensor) -> str:
    if tensor.shape is None:
        return "unknown"
    return "(" + ", ".join("?" if side is None else str(side) for side in tensor.shape) + ")"
