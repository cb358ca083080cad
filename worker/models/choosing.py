"""Where images go into a model and where scores come out of it: found in its signatures, as far as they leave no doubt.

What they leave open, the model's `Hints` say. Hints that do not fit the model are a `ModelProblem`. A model that takes
no images, or leaves doubt about it, is `Unfit`: it serves its signatures all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from worker.models.preprocessing import Hints, Pixels
from worker.models.servable import Encoded, ModelProblem, Signature, Tensor
from worker.models.signatures import DEFAULT

T = TypeVar("T")

FLOATS: Final = ("float32", "float16", "float64")
INTEGERS: Final = ("uint8", "int32", "int64")
MEANS_SCORES: Final = ("scores", "probabilities", "predictions", "softmax")
"""An output with one of these names is the one that counts, if no other has such a name."""


class Unfit(Exception):
    """A model does not classify images; why, as a part of a sentence."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The tensors of one signature that classify images."""

    key: str
    signature: Signature
    input: Tensor
    output: Tensor
    takes: Encoded | Pixels


def choose(what: str, signatures: Mapping[str, Signature], hints: Hints) -> Choice:
    """The way through the model, which `what` names in sentences. Raises ModelProblem, Unfit."""
    # What begins so is bookkeeping of the SavedModel format, not an entrance.
    entrances = {key: signature for key, signature in signatures.items() if not key.startswith("__saved_model")}
    if hints.signature is not None:
        return _through(what, hints.signature, _named(what, "signature", entrances, hints.signature), hints)
    fit: dict[str, Choice] = {}
    unfit: dict[str, Exception] = {}
    for key, signature in entrances.items():
        try:
            fit[key] = _through(what, key, signature, hints)
        except (ModelProblem, Unfit) as error:
            unfit[key] = error
    if DEFAULT in fit or len(fit) == 1:
        return fit.get(DEFAULT) or next(iter(fit.values()))
    if fit:
        raise Unfit(f"several of its signatures take images ({_list(fit)}): name one in preprocessing.json")
    if len(unfit) == 1 or DEFAULT in unfit:
        raise unfit.get(DEFAULT) or next(iter(unfit.values()))
    raise Unfit(f"none of its signatures ({_list(unfit)}) takes images" if unfit else "it has no signature that could")


def _through(what: str, key: str, signature: Signature, hints: Hints) -> Choice:
    taken = _input(what, signature, hints)
    takes = _item(what, taken, hints)
    return Choice(key, signature, taken, _output(what, signature, hints, taken), takes)


def _input(what: str, signature: Signature, hints: Hints) -> Tensor:
    if hints.input is not None:
        return _named(what, "input", signature.inputs, hints.input)
    if signature.method_name in ("tensorflow/serving/classify", "tensorflow/serving/regress"):
        raise Unfit("its signature takes tf.Example records")
    if len(signature.inputs) != 1:
        listed = f" ({_list(signature.inputs)}): name one in preprocessing.json" if signature.inputs else ""
        raise Unfit(f"it has {len(signature.inputs)} inputs{listed}")
    return next(iter(signature.inputs.values()))


def _output(what: str, signature: Signature, hints: Hints, taken: Tensor) -> Tensor:
    if hints.output is not None:
        return _named(what, "output", signature.outputs, hints.output)
    floats = {key: tensor for key, tensor in signature.outputs.items() if tensor.dtype in FLOATS or tensor.quantized}
    fit = {key: tensor for key, tensor in floats.items() if _is_scores(tensor, one=taken.shape == ())}
    if not fit:
        shapes = ", ".join(f"{tensor.dtype} {_shape(tensor)}" for tensor in signature.outputs.values())
        raise Unfit(f"it gives no row of floating-point scores for each image, but {shapes or 'nothing'}")
    if len(fit) > 1:
        meant = [key for key in fit if key.lower() in MEANS_SCORES]
        if len(meant) != 1:
            raise Unfit(f"it has several outputs ({_list(fit)}): name one in preprocessing.json")
        return fit[meant[0]]
    return next(iter(fit.values()))


def _is_scores(tensor: Tensor, one: bool) -> bool:
    """May this hold a row of scores for each image; or for the only image, which has no batch around it?"""
    if tensor.shape is None:
        return True
    row = tensor.shape if one else tensor.shape[1:]
    return bool(row) and sum(size != 1 for size in row) <= 1


def _named(what: str, kind: str, there: Mapping[str, T], name: str) -> T:
    if name not in there:
        raise ModelProblem(f"{what} has no {kind} {name!r}; it has {_list(there) or 'none'}")
    return there[name]


def _item(what: str, tensor: Tensor, hints: Hints) -> Encoded | Pixels:
    if tensor.dtype == "string":
        if tensor.shape is not None and len(tensor.shape) > 1:
            raise Unfit(f"its input is string of shape {_shape(tensor)}, not one text for each image")
        return Encoded()
    signed = tensor.dtype == "int8" and tensor.quantized is not None
    if not (tensor.dtype in (*FLOATS, *INTEGERS) or signed) or (tensor.shape is not None and len(tensor.shape) != 4):
        raise Unfit(
            f"its input is {tensor.dtype} of shape {_shape(tensor)}, "
            "not encoded images (string) or pixels of shape (batch, height, width, channels)"
        )
    _, height, width, channels = tensor.shape or (None, None, None, 3)
    if channels not in (1, 3):
        raise Unfit(f"it takes {channels or 'any number of'} channels; images have 1 or 3, and come last")
    return Pixels(
        height=_side(what, "height", height, hints.height),
        width=_side(what, "width", width, hints.width),
        channels=channels,
        dtype=tensor.dtype,
        resize=hints.resize or "stretch",
        filter=hints.filter or "bilinear",
        mean=hints.mean or (128.0 if signed else 0.0,),
        std=hints.std or (255.0 if tensor.dtype in FLOATS else 1.0,),
        bgr=hints.channels == "BGR",
    )


def _side(what: str, kind: str, fixed: int | None, hint: int | None) -> int:
    if fixed is not None and hint is not None and fixed != hint:
        raise ModelProblem(f"{what} takes images of {kind} {fixed}, not {hint}")
    side = fixed or hint
    if side is None:
        raise Unfit(
            f"it takes images of any {kind}: say which it was trained with, "
            f"as {kind!r} in preprocessing.json or with --input-{kind}"
        )
    return side


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))


def _shape(tensor: Tensor) -> str:
    if tensor.shape is None:
        return "unknown"
    return "(" + ", ".join("?" if side is None else str(side) for side in tensor.shape) + ")"
