"""A TensorFlow graph with its session: the one way in which models are run here.

Every kind of model file becomes a `Graph`. Its session lives as long as the model, nothing is built per request, and
calls go through a session callable, which costs a third of `Session.run` and, like TensorFlow Serving, takes tensors by
name. A call computes in the thread that makes it, on one core and without the GIL: two threads that each run a model
serve more images than one call spread over two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from worker.models.servable import Signature, Tensor
from worker.models.tensorflow_quietly import tf

from tensorflow.core.protobuf import config_pb2  # isort: skip  # TensorFlow is imported quietly, above, or not at all

v1 = tf.compat.v1
Refused = tf.errors.InvalidArgumentError
"""What a call raises when the model cannot work with the values it was given."""

Run = Callable[..., list[NDArray[Any]]]

_IN_THE_CALLING_THREAD = -1


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A loaded model: its session, and its signatures by name."""

    session: Any
    signatures: Mapping[str, Signature]

    def function(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Run:
        """A function of arrays, one for each of `inputs`, that returns one for each of `outputs`. Thread-safe.

        It raises `Refused` for values that do not fit, other `tf.errors` when the model fails.
        """
        options = config_pb2.CallableOptions(
            feed=[tensor.name for tensor in inputs], fetch=[tensor.name for tensor in outputs]
        )
        options.run_options.inter_op_thread_pool = _IN_THE_CALLING_THREAD
        run: Run = self.session._make_callable_from_options(options)
        return run

    def close(self) -> None:
        """End the session and give its memory back. No call may be under way."""
        self.session.close()


def new_session() -> Any:
    """An empty graph in a session of its own."""
    config = v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1, device_count={"GPU": 0})
    return v1.Session(graph=tf.Graph(), config=config)


def shape_of(proto: Any) -> tuple[int | None, ...] | None:
    """A TensorShapeProto in plain Python."""
    if proto.unknown_rank:
        return None
    return tuple(None if dimension.size < 0 else dimension.size for dimension in proto.dim)
