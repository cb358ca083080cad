"""SavedModel directories, written by TensorFlow 1 or 2 alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worker.models.graph import Graph, new_session, shape_of, v1
from worker.models.servable import ModelProblem, Signature, Tensor
from worker.models.tensorflow_quietly import tf

SERVING_TAGS = ["serve"]
_MEANT = (
    (OSError, "its saved_model.pb is damaged"),
    (RuntimeError, "its saved_model.pb holds no graph with the tag 'serve'"),
    ((tf.errors.DataLossError, tf.errors.OutOfRangeError), "its variables are damaged"),
)
"""What TensorFlow means by an error whose own words lead astray."""


def load_savedmodel(directory: Path) -> Graph:
    """The graph in `directory`, with its variables restored and its initialisers run. Raises ModelProblem."""
    session = new_session()
    try:
        with session.graph.as_default():
            meta_graph = v1.saved_model.load(session, SERVING_TAGS, str(directory))
    except Exception as error:  # whatever a damaged file makes TensorFlow raise
        session.close()
        reason = next((words for kind, words in _MEANT if isinstance(error, kind)), first_line(error))
        raise ModelProblem(f"the SavedModel in {directory} cannot be loaded: {reason}") from error
    return Graph(session, {key: signature_of(definition) for key, definition in meta_graph.signature_def.items()})


def first_line(error: Exception) -> str:
    """The gist of an error of TensorFlow, which tends to print half a screen."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def signature_of(definition: Any) -> Signature:
    """What a SignatureDef says."""
    return Signature(
        {key: _tensor(info) for key, info in definition.inputs.items()},
        {key: _tensor(info) for key, info in definition.outputs.items()},
        definition.method_name,
        definition.SerializeToString(),
        {key: tf.make_ndarray(value) for key, value in definition.defaults.items()},
    )


def _tensor(info: Any) -> Tensor:
    dtype = tf.dtypes.as_dtype(info.dtype).name if info.dtype else "invalid"  # an operation without a value has none
    return Tensor(info.name, dtype, shape_of(info.tensor_shape))
