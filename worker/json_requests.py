"""What the JSON of a REST request asks for: the signature, and the tensors or examples. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from worker.examples import behind
from worker.json_dialect import parse
from worker.json_quote import kind_of, quoted
from worker.json_tensor import columns, is_base64, rows, text_bytes, unbase64
from worker.messages.tensors import Example
from worker.models.servable import Array, Signature
from worker.status import Code, StatusError

Document: TypeAlias = Mapping[str, Any]


def read(body: bytes, *, depth: int, values: int) -> Document:
    """The object in `body`; its `signature_name` is a text or absent. Raises StatusError."""
    document = parse(body, depth=depth, values=values)
    if not isinstance(document, dict):
        raise _wrong(document, "Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise _wrong(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return document


def tensors(document: Document, signature: Signature, key: str) -> tuple[list[Array], bool]:
    """The arrays for the signature's inputs, and whether they came as rows. Raises StatusError.

    `key` is what the caller called the signature.
    """
    if not signature.inputs:
        raise _invalid(f"Failed to get input map for signature: {key or 'DEFAULT'}")
    if "instances" not in document:
        if "inputs" not in document:
            raise _invalid("Missing 'inputs' or 'instances' key")
        return columns(document["inputs"], signature.inputs), False
    if "inputs" in document:
        raise _wrong(document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
    instances = document["instances"]
    if not isinstance(instances, list):
        raise _wrong(document, "Expecting 'instances' to be an list/array")
    if not instances:
        raise _wrong(document, "No values in 'instances' array")
    return rows(instances, signature.inputs), True


def examples(document: Document, most: int) -> Array:
    """Each example as a serialised `tf.Example`, the context before it, so that the example's own features win.

    Raises StatusError, also if repeating the context takes more than `most` bytes.
    """
    context = b""
    if "context" in document:
        context = _example(document["context"])
    if "examples" not in document:
        raise _wrong(document, "When method is classify, key 'examples' is expected and was not found")
    listed = document["examples"]
    if not isinstance(listed, list):
        raise _wrong(document, "Expecting 'examples' value to be an list/array")
    if not listed:
        raise _wrong(document, "'examples' value is an empty array")
    return behind(context, [_example(example) for example in listed], most)


def _example(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise _invalid(f"Example must be JSON object but got JSON {kind_of(value)}")
    example = Example()
    features = example.features.feature
    for name, content in value.items():
        try:
            feature = features[name]
        except UnicodeEncodeError:
            raise _invalid(f"the name of the feature {name!r} is not UTF-8") from None
        _fill(feature, name, content if isinstance(content, list) else [content])
    serialised: bytes = example.SerializeToString()
    return serialised


def _fill(feature: Any, name: str, values: Iterable[Any]) -> None:
    """Give `feature` its values, which must be of one kind."""
    kind = ""
    found = []
    for value in values:
        its, converted = _element(name, value)
        if kind not in ("", its):
            raise _invalid(f"Unexpected element type in feature: {name} expecting type: {kind}")
        kind = its
        found.append(converted)
    if kind:
        getattr(feature, f"{kind}_list").value.extend(found)


def _element(name: str, value: Any) -> tuple[str, bytes | float | int]:
    """The kind of list that `value` belongs to, and what it is there."""
    if isinstance(value, str):
        return "bytes", text_bytes(value)
    if is_base64(value):
        return "bytes", unbase64(value)
    if isinstance(value, float):
        return "float", value
    if not isinstance(value, int):
        raise _invalid(f"Feature: {name} has element with unexpected JSON type: {kind_of(value)}")
    if value >= 1 << 63:
        raise _invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    return "int64", int(value)


def _wrong(value: Any, why: str) -> StatusError:
    return _invalid(f"JSON Value: {quoted(value)} {why}")


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)
