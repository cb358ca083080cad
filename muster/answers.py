"""What the cluster answers, as values: built from its JSON for `muster.plans`, handed out by `muster.client`.

All are immutable. An answer that lacks what it promises is an UnexpectedAnswer, not a KeyError somewhere later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from muster.errors import BadRequest, ClusterError, Overloaded, TooLarge, UnexpectedAnswer, UnknownModel
from muster.wire import SERVED_BY, SERVER_TIMING


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label and its score; what a score means is the model's affair, mostly a probability from 0 to 1."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """What a model sees in one image, the likeliest first."""

    model: str
    version: int | None
    predictions: tuple[Prediction, ...]
    served_by: str | None
    """Id of the worker that answered."""
    timings: Mapping[str, float]
    """Milliseconds that each part of the way took, by its name: `decode`, `queue`, `infer`, `proxy`, …"""

    @property
    def best(self) -> Prediction:
        """The likeliest. IndexError if none was asked for."""
        return self.predictions[0]


@dataclass(frozen=True, slots=True)
class Values:
    """What a model gave for the tensors that it was sent."""

    values: Any
    """One item for each instance, or one tensor for all inputs; where the model has several outputs, by their names."""
    served_by: str | None
    """Id of the worker that answered."""
    timings: Mapping[str, float]
    """Milliseconds that each part of the way took, by its name: `decode`, `queue`, `infer`, `proxy`, …"""


@dataclass(frozen=True, slots=True)
class Peers:
    """Workers that may be asked directly, as `host:port`, the one to prefer first, for `ttl` seconds."""

    addresses: tuple[str, ...]
    ttl: float


@dataclass(frozen=True, slots=True)
class Listed:
    """One worker as the proxy sees it."""

    id: str
    address: str
    """`host:port`"""
    models: tuple[str, ...]
    """Empty also where it does not say what it has."""
    state: str
    """`ready`, or a word for why it gets no requests at the moment."""
    versions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The versions of its models, as far as it says, in rising order."""


_PLAIN = {400: BadRequest, 404: UnknownModel, 413: TooLarge, 429: Overloaded, 503: Overloaded}
"""TensorFlow Serving's REST API says in a sentence what was wrong, and in the status of what kind it was."""


def explained(status: int, body: object, retry_after: str | None) -> ClusterError:
    """The error that an answer of 400 and above stands for, with its `Retry-After` (seconds) if it names one."""
    error = ClusterError.from_json(status, body)
    if status in _PLAIN and isinstance(error, UnexpectedAnswer) and isinstance(body, Mapping) and "code" not in body:
        error = _PLAIN[status](error.message)
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        error.retry_after = int(retry_after)  # type: ignore[misc]  # this answer's word beats the class's
    return error


def classifications(headers: Mapping[str, str], body: Any) -> list[Classification | ClusterError]:
    """One outcome for each image of a `/classify` answer, in order; an image that could not be read is its error."""
    with _promised("a classification"):
        several = body.get("results", [body])
        return [_classification(body["model"], headers, one) for one in several]


def _classification(model: Any, headers: Mapping[str, str], result: Any) -> Classification | ClusterError:
    if "error" in result:
        return ClusterError.from_json(400, result)
    return Classification(
        model=str(model["name"]),
        version=model.get("version"),
        predictions=tuple(Prediction(str(each["label"]), float(each["score"])) for each in result["predictions"]),
        served_by=headers.get(SERVED_BY),
        timings=server_timing(headers.get(SERVER_TIMING, "")),
    )


def values(headers: Mapping[str, str], body: Any) -> Values:
    """What a `:predict` answer holds, whichever of its two forms it has."""
    with _promised("a prediction"):
        given = body["predictions"] if "predictions" in body else body["outputs"]
        return Values(given, headers.get(SERVED_BY), server_timing(headers.get(SERVER_TIMING, "")))


def peers(body: Any) -> Peers:
    """What the proxy says to somebody who wants to talk to a worker."""
    with _promised("a worker's address"):
        addresses = (body["address"], *body.get("alternates", ()))
        if not all(re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}", address) for address in addresses):
            raise ValueError("not addresses")
        return Peers(addresses, float(body["ttl"]))


def roster(body: Any) -> list[Listed]:
    """What the proxy says about its workers."""
    with _promised("a list of workers"):
        return [_listed(each) for each in body["workers"]]


def _listed(each: Any) -> Listed:
    versions = {str(model): tuple(map(int, numbers)) for model, numbers in (each.get("versions") or {}).items()}
    models = tuple(map(str, each["models"] or ()))
    return Listed(str(each["id"]), str(each["address"]), models, str(each["state"]), versions)


def server_timing(text: str) -> dict[str, float]:
    """Milliseconds by name from a `Server-Timing` header: `decode;dur=1.5, infer;dur=3`. The rest is left out."""
    timings = {}
    for metric in text.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            with suppress(ValueError):
                if key.strip().lower() == "dur":
                    timings[name] = float(value.strip().strip('"'))
    return timings


@contextmanager
def _promised(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswer(f"the answer is not {what}; is that a muster proxy?", status=502) from error
