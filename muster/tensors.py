"""Tensors as TensorFlow Serving's REST API takes them: what a Python user has at hand becomes the JSON of a request."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from muster.errors import BadRequest


def request_body(instances: Any, inputs: Any, signature: str | None) -> bytes:
    """The body of a `:predict` request: `instances` (rows) or `inputs` (columns), one of them and not None.

    Lists, numbers, texts, `bytes`, mappings of names to such, and whatever has a `tolist` as arrays do. BadRequest for
    anything else.
    """
    if (instances is None) == (inputs is None):
        raise BadRequest("give either instances (one item for each row) or inputs (whole tensors)")
    request: dict[str, Any] = {"instances": instances} if inputs is None else {"inputs": inputs}
    if signature is not None:
        request["signature_name"] = signature
    try:
        return json.dumps(request, default=_plain, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise BadRequest(f"this cannot be sent as a tensor: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is neither a number, a text, bytes, nor an array of those")
