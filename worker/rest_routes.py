"""Which request of TensorFlow Serving's REST API this is. Pure: a method and a target in, a `Route` or an error out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from worker.status import Code, StatusError

PREFIX: Final = "/v1/"
"""What every path of the API begins with, in whatever case."""
_WHICH: Final = r"(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?"
_RUN: Final = re.compile(rf"/v1/models/([^/:]+){_WHICH}:(classify|regress|predict)", re.IGNORECASE)
_LOOK: Final = re.compile(rf"/v1/models(?:/([^/:]+))?{_WHICH}(?:/(metadata))?", re.IGNORECASE)
_LARGEST_VERSION: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Route:
    """What is asked of which model: `predict`, `classify`, `regress`, `status` or `metadata`."""

    verb: str
    name: str
    version: int | None
    label: str | None


def route(method: str, target: str) -> Route:
    """The route of a request to `target`, path and query as they were sent. Raises StatusError (INVALID_ARGUMENT).

    A query belongs to no route. The verb must be in small letters, although the path need not.
    """
    expected = {"POST": _RUN, "GET": _LOOK}.get(method)
    match = expected.fullmatch(target) if expected is not None and "?" not in target else None
    if match is None:
        raise _malformed(method, target)
    name, version, label, verb = match.groups()
    if not name:
        raise StatusError(Code.INVALID_ARGUMENT, "Missing model name in request.")
    if version is not None and (len(version.lstrip("0")) > len("9" * 19) or int(version) > _LARGEST_VERSION):
        raise StatusError(Code.INVALID_ARGUMENT, f"Failed to convert version: {version} to numeric.")
    if method == "GET":
        verb = "metadata" if verb == "metadata" else "status"
    elif not verb.islower():
        raise _malformed(method, target)
    return Route(
        verb, _decoded(name), None if version is None else int(version), None if label is None else _decoded(label)
    )


def _decoded(part: str) -> str:
    return unquote(part, errors="surrogateescape")


def _malformed(method: str, target: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, f"Malformed request: {method} {target}")
