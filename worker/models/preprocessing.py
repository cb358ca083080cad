"""How an image becomes the numbers that a model was trained on, and where that is written down.

Three sources, the later ones win: the shape and type in the model's signature, the file `preprocessing.json` beside the
model (in `assets.extra/` or in the version's directory), and the flags of the worker. A whole file:

    {"signature": "serving_default", "input": "image", "output": "scores",
     "height": 224, "width": 224, "resize": "crop", "filter": "bilinear",
     "mean": [123.7, 116.3, 103.5], "std": 58.4, "channels": "BGR", "scores": "logits"}

Every member may be left out. Nothing else is guessed: pixels of a float input become 0…1, those of an integer input
stay 0…255, and scores go out as the model gives them unless they are declared to be logits.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

FILTERS: Final = ("nearest", "box", "bilinear", "bicubic", "lanczos")
Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels that a model takes, as an array of shape (height, width, channels).

    The image is brought to `height` × `width` by stretching it, or by scaling its shorter side and cutting the middle
    out (`resize="crop"`). Then `(pixel - mean) / std`, each one number or one per channel.
    """

    height: int
    width: int
    channels: int = 3
    dtype: str = "float32"
    resize: str = "stretch"
    filter: str = "bilinear"
    mean: Numbers = (0.0,)
    std: Numbers = (1.0,)
    bgr: bool = False


@dataclass(frozen=True, slots=True)
class Hints:
    """What the owner of a model said about it; None where nothing was said."""

    signature: str | None = None
    input: str | None = None
    output: str | None = None
    height: int | None = None
    width: int | None = None
    resize: str | None = None
    filter: str | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    channels: str | None = None
    scores: str | None = None

    def overridden_by(self, other: Hints) -> Hints:
        """These hints, but what `other` says goes first."""
        said = {name: value for name, value in dataclasses.asdict(other).items() if value is not None}
        return dataclasses.replace(self, **said)


def read_hints(path: Path) -> Hints:
    """The hints in the file `path`. ValueError, one sentence, if it is not such a file."""
    try:
        members = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(members, dict):
        raise ValueError(f"{path} must hold a JSON object")  # noqa: TRY004  # bad data, not a bad call
    unknown = sorted(set(members) - set(_CHECKS))
    if unknown:
        raise ValueError(f"{path} has a member {unknown[0]!r}; known are {', '.join(_CHECKS)}")
    try:
        return Hints(**{name: _CHECKS[name](value) for name, value in members.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def numbers(value: object) -> Numbers:
    """One number, or one for each of three channels. ValueError otherwise."""
    values = value if isinstance(value, list) else [value]
    found = tuple(float(one) for one in values if _is_number(one))
    if len(found) != len(values) or len(values) not in (1, 3):
        raise ValueError(f"{value!r} is neither a number nor three")
    return found


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def divisor(value: object) -> Numbers:
    """As `numbers`, and none of them 0."""
    if 0.0 in (divisors := numbers(value)):
        raise ValueError("std must not be 0")
    return divisors


def side(value: object) -> int:
    """A height or width in pixels. ValueError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 16384:
        raise ValueError(f"{value!r} is not a number of pixels from 1 to 16384")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a name")
    return value


def _one_of(*words: str) -> Any:
    def check(value: object) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}")
        return str(value)

    return check


_CHECKS: Final = {
    "signature": _text,
    "input": _text,
    "output": _text,
    "height": side,
    "width": side,
    "resize": _one_of("stretch", "crop"),
    "filter": _one_of(*FILTERS),
    "mean": numbers,
    "std": divisor,
    "channels": _one_of("RGB", "BGR"),
    "scores": _one_of("as-is", "logits"),
}
