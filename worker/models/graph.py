"""A TensorFlow graph with its session: the one way in which models are run here.

Every kind of model file becomes a `Graph`. Its session lives as long as the model, nothing is built per request, and
calls go through a session callable, which costs a third of `Session.run` and, like TensorFlow Serving, takes tensors by
name. A call computes in the thread that makes it, on one core and without the GIL: two threads that each run a model
serve more images than one call spread over two cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worker.models.servable import Array, Run, Signature, Tensor
from worker.models.tensorflow_quietly import tf
from worker.status import StatusError, code_of_number

from tensorflow.core.protobuf import config_pb2  # isort: skip  # TensorFlow is imported quietly, above, or not at all

v1 = tf.compat.v1
_IN_THE_CALLING_THREAD = -1


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A loaded model: its session, and its signatures by name."""

    session: Any
    signatures: Mapping[str, Signature]
    _functions: dict[tuple[tuple[str, ...], tuple[str, ...]], Run] = field(default_factory=dict)

    def function(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Run:
        """A function of arrays, one for each of `inputs`, that returns one for each of `outputs`. Thread-safe.

        Its calls raise StatusError.
        """
        feeds, fetches = tuple(tensor.name for tensor in inputs), tuple(tensor.name for tensor in outputs)
        run = self._functions.get((feeds, fetches))
        if run is None:
            run = self._functions[feeds, fetches] = self._function(feeds, fetches)
        return run

    def _function(self, feeds: Sequence[str], fetches: Sequence[str]) -> Run:
        options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        options.run_options.inter_op_thread_pool = _IN_THE_CALLING_THREAD
        call = self.session._make_callable_from_options(options)

        def run(*arrays: Array) -> list[Array]:
            try:
                results = call(*arrays)
            except tf.errors.OpError as error:
                raise StatusError(code_of_number(error.error_code), error.message) from error
            # A tensor without dimensions comes as NumPy's or Python's own scalar.
            return [np.asarray(value, object if isinstance(value, bytes) else None) for value in results]

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
