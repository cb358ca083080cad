"""Which signatures of a graph change nothing when they are called, so that one may be called to no purpose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from worker.models import tensorflow_quietly  # noqa: F401  # before TensorFlow is imported by its own name
from worker.models.servable import Signature

from tensorflow.python.framework import op_def_registry  # isort: skip

HARMLESS: Final = frozenset({
    "Assert", "HashTable", "HashTableV2", "If", "LookupTableFind", "LookupTableFindV2", "LookupTableSize",
    "LookupTableSizeV2", "PartitionedCall", "ReadVariableOp", "ResourceGather", "ResourceGatherNd",
    "StatefulPartitionedCall", "VarHandleOp", "Variable", "VariableV2", "While",
})  # fmt: skip
"""Operations that TensorFlow calls stateful because they only read state, or call functions, which are judged too."""


def pure_signatures(graph: Any, signatures: Mapping[str, Signature]) -> frozenset[str]:
    """The keys of those signatures of a GraphDef whose outputs need no operation that changes or creates anything."""
    nodes = {node.name: node for node in graph.node}
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    return frozenset(key for key, signature in signatures.items() if _pure(_needed(nodes, signature), functions))


def _needed(nodes: Mapping[str, Any], signature: Signature) -> Iterator[Any]:
    """The nodes that the outputs are computed from, without what is fed."""
    seen = {_node_name(tensor.name) for tensor in signature.inputs.values()}
    waiting = [_node_name(tensor.name) for tensor in signature.outputs.values()]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        yield nodes[name]
        waiting.extend(map(_node_name, nodes[name].input))


def _pure(nodes: Iterable[Any], functions: Mapping[str, Iterable[Any]]) -> bool:
    seen: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if not _harmless(node.op):
            return False
        for name in set(_called(node)) - seen:
            if name not in functions:
                return False
            seen.add(name)
            waiting.extend(functions[name])
    return True


def _harmless(operation: str) -> bool:
    definition = op_def_registry.get(operation)
    return operation in HARMLESS or (definition is not None and not definition.is_stateful)


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name


def _node_name(tensor: str) -> str:
    """The node of a tensor `x:0`, or of a control input `^x`."""
    return tensor.removeprefix("^").partition(":")[0]
