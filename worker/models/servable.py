"""What a loaded model promises, whatever file it came from.

`Tensor` and `Signature` describe a graph's doors as its author named them; `Servable` is the view of it that takes
images and gives scores. All are immutable and safe to use from several threads. Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from worker.models.preprocessing import Pixels

Item: TypeAlias = bytes | NDArray[np.generic]
"""One image in the form its model wants: an encoded image, or pixels of shape (height, width, channels)."""


class ModelProblem(Exception):
    """A model cannot be served as it is. The sentence says why, and what its owner can do about it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the graph. `shape` is None where even the rank is unknown; None in it is a size left open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's entrance: its tensors by the names its author gave them."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The model decodes images itself: it takes the bytes of a JPEG or PNG file, upright, 8-bit, gray or RGB."""


@dataclass(frozen=True, slots=True, eq=False)
class Servable:
    """A model that classifies images, loaded and warm.

    `run` takes 1 to `batch_sizes[-1]` items and returns scores of shape (items, labels), float32, rows in order.
    It blocks, may be called from several threads at once, and raises `BadImage` for encoded items that the model
    cannot decode, anything else when the model itself fails.
    """

    name: str
    version: int
    input: Encoded | Pixels
    labels: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    """The sizes that the model is really called with; a smaller batch is padded to the next."""
    run: Callable[[Sequence[Item]], NDArray[np.float32]]
