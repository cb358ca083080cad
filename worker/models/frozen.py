"""Frozen graphs: one `.pb` file with the weights inside, as TensorFlow 1 and its `label_image.py` example use them.

Such a file has no signature. Its input and output are named by the operator (`--input_layer`, `--output_layer`) or,
where the graph leaves no doubt, found: the only placeholder, and the only result that nothing else consumes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worker.models.graph import Graph, first_line, new_session, v1
from worker.models.options import LoadOptions
from worker.models.purity import pure_signatures
from worker.models.servable import ModelProblem, Tensor
from worker.models.signatures import DEFAULT, new_signature, shape_of
from worker.models.tensorflow_quietly import tf

_FLOATS = ("float32", "float16", "float64")


def load_frozen(file: Path, input_layer: str | None, output_layer: str | None, options: LoadOptions) -> Graph:
    """The graph in `file`, with one signature from `input_layer` to `output_layer`. Raises ModelProblem."""
    session = new_session(options)
    try:
        definition = v1.GraphDef.FromString(file.read_bytes())
        with session.graph.as_default():
            tf.import_graph_def(definition, name="")
    except Exception as error:  # whatever a damaged file makes TensorFlow or protobuf raise
        session.close()
        raise ModelProblem(f"{file} is not a frozen TensorFlow graph: {first_line(error)}") from error
    try:
        signature = new_signature(
            {"input": _tensor(session.graph, _chosen(file, session.graph, "input", input_layer))},
            {"output": _tensor(session.graph, _chosen(file, session.graph, "output", output_layer))},
        )
    except ModelProblem:
        session.close()
        raise
    signatures = {DEFAULT: signature}
    return Graph(session, signatures, pure_signatures(definition, signatures), options.inter_op_threads)


def _chosen(file: Path, graph: Any, side: str, layer: str | None) -> str:
    if layer is not None:
        # "import/…" is what label_image.py's users write: the example imports the graph under that prefix.
        for name in (layer, layer.removeprefix("import/")):
            tensor = name if ":" in name else f"{name}:0"
            try:
                graph.get_tensor_by_name(tensor)
            except (KeyError, ValueError):
                continue
            return tensor
        raise ModelProblem(f"{file} has no layer {layer!r}, which --{side}-layer names{_known(graph, side)}")
    candidates = _candidates(graph, side)
    if len(candidates) != 1:
        raise ModelProblem(f"{file} does not say which {side} to use: set --{side}-layer{_known(graph, side)}")
    return candidates[0] + ":0"


def _known(graph: Any, side: str) -> str:
    names = _candidates(graph, side)
    return f" (candidates: {', '.join(names[:5])}{', …' if len(names) > 5 else ''})" if names else ""


def _candidates(graph: Any, side: str) -> list[str]:
    operations = graph.get_operations()
    if side == "input":
        return [operation.name for operation in operations if operation.type == "Placeholder"]
    consumed = {tensor.op.name for operation in operations for tensor in operation.inputs}
    return [
        operation.name
        for operation in operations
        if operation.name not in consumed
        and operation.inputs
        and operation.outputs
        and operation.outputs[0].dtype.name in _FLOATS
    ]


def _tensor(graph: Any, name: str) -> Tensor:
    tensor = graph.get_tensor_by_name(name)
    return Tensor(name, tensor.dtype.name, shape_of(tensor.shape.as_proto()))
