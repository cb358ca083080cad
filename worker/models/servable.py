"""What a loaded model promises, whatever file it came from.

`Tensor` and `Signature` describe a graph's doors as its author named them, `Servable` is one loaded version of a model,
and `Classifier` the view of it that takes images and gives scores. All are immutable and safe to use from several
threads. Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from worker.batching_parameters import Batching
from worker.models.preprocessing import Pixels

Array: TypeAlias = NDArray[Any]
"""A tensor's value. Strings are object arrays of `bytes`."""
Item: TypeAlias = bytes | NDArray[np.generic]
"""One image in the form its model wants: an encoded image, or pixels of shape (height, width, channels)."""
Run: TypeAlias = Callable[..., list[Array]]
"""One array for each input, in order, to one for each output, in order. It blocks and is thread-safe."""


class ModelProblem(Exception):
    """A model cannot be served as it is. The sentence says why, and what its owner can do about it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the graph, by its name there, such as `x:0`. `dtype` is TensorFlow's name of the type: `float32`,
    `string`, `bfloat16`. `shape` is None where even the rank is unknown; None in it is a size left open.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    quantized: tuple[float, int] | None = None
    """Scale and zero point, if its integers stand for real numbers: scale × (integer - zero point)."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's entrance: its tensors by the names (aliases) that its author gave them."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    method_name: str = ""
    definition: bytes = b""
    """The serialised `tensorflow.SignatureDef` that this was read from, or made for; metadata shows it."""
    defaults: Mapping[str, Array] = field(default_factory=dict)
    """Values of inputs that a caller may leave out."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The model decodes images itself: it takes the bytes of a JPEG or PNG file, upright, 8-bit, gray or RGB."""


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """How one signature's input and output are used to classify images."""

    input: Tensor
    output: Tensor
    takes: Encoded | Pixels
    labels: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    """The sizes that the model is really called with; a smaller batch is padded to the next."""
    pack: Callable[[Item], Array]
    """One item as the input of a batch of one."""
    scores: Callable[[Array], NDArray[np.float32]]
    """The output for one item as one score for each label; ClusterError if the output is of no use."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What it took to replay the requests that came with a model."""

    records: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Servable:
    """One version of a model, loaded and warm."""

    name: str
    version: int
    signatures: Mapping[str, Signature]
    """Every signature by its key, those of the SavedModel format's own bookkeeping included."""
    function: Callable[[Sequence[Tensor], Sequence[Tensor]], Run]
    """The function from these inputs to these outputs: cheap to ask for again, for it is kept.

    Calls of it raise StatusError with TensorFlow's code and text; shapes are not compared with the signature.
    """
    close: Callable[[], None]
    """Give the memory back. No call may be under way."""
    classifier: Classifier | None = None
    no_classifier: str = "it was loaded without looking whether it classifies images"
    """Why there is no `classifier`, as a part of a sentence."""
    batching: Batching | None = None
    """How its directory wants requests to share calls, where directories are asked."""
    replayed: Replayed | None = None
    """The requests that warmed it up, if it came with any."""

    def __repr__(self) -> str:
        return f"<Servable {self.name} version {self.version}>"


_LOOKED_AT = 1000


def bytes_in(arrays: Iterable[Array]) -> int:
    """About as many bytes as these values take: of very many strings only the first are looked at, for this is asked
    where nobody may be kept waiting.
    """
    return sum(
        array.nbytes + (sum(map(len, array.flat[:_LOOKED_AT])) if array.dtype == object else 0) for array in arrays
    )
