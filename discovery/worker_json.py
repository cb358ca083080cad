"""A `Worker` as plain JSON, and what makes a worker valid wherever it comes from. Pure.

The proxy shows this form on `/workers`, a worker shows it as `worker` on its `/readyz`, where a static registry reads
it. What other machines tell is checked here before it becomes a `Worker`: requests go where it points.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from discovery.endpoints import is_destination, is_port
from muster.values import Worker

MAX_WEIGHT = 65535  # Consul's
MAX_VERSION = 2**63 - 1
_ID = re.compile(r"[!-~]{1,255}")  # visible ASCII: it travels in headers
_TYPES = {"id": str, "host": str, "port": int, "grpc_port": int, "version": str, "replay_safe": bool, "capacity": int,
          "weight": int}  # fmt: skip


def worker_id(host: str, port: int, boot: str) -> str:
    """The id of the worker at `host`:`port`; `boot` is new at every start, so that a restarted worker is a new one."""
    return f"worker-{host}-{port}-{boot}"


def checked(worker: Worker) -> Worker:
    """`worker` itself. Raises ValueError, one sentence, if requests could not be sent to it as it is described."""
    if not _ID.fullmatch(worker.id):
        raise ValueError(f"a worker's id is 1 to 255 visible ASCII characters, not {worker.id!r}")
    if not is_destination(worker.host):
        raise ValueError(f"{worker.id}: {worker.host!r} is not an address that a worker can have")
    if not is_port(worker.port):
        raise ValueError(f"{worker.id}: {worker.port!r} is not a port")
    if worker.grpc_port is not None and not is_port(worker.grpc_port):
        raise ValueError(f"{worker.id}: {worker.grpc_port!r} is not a port for gRPC")
    if not 1 <= worker.weight <= MAX_WEIGHT:
        raise ValueError(f"{worker.id}: a weight is 1 to {MAX_WEIGHT}, not {worker.weight}")
    if worker.capacity < 0:
        raise ValueError(f"{worker.id}: a capacity is not negative")
    return worker


def to_json(worker: Worker) -> dict[str, Any]:
    """Every field by its own name; `grpc_port` is null when there is none.

    `models` is a list of strings, null if the worker does not say; `versions` lists numbers by the model's name.
    """
    models = None if worker.models is None else list(worker.models)
    versions: dict[str, list[int]] = {}
    for model, version in worker.versions:
        versions.setdefault(model, []).append(version)
    return {**dataclasses.asdict(worker), "models": models, "versions": versions}


def from_json(value: object) -> Worker:
    """The worker that `to_json` made `value` of; unknown members are ignored. Raises ValueError, one sentence."""
    if not isinstance(value, Mapping):
        raise ValueError("a worker is a JSON object")  # noqa: TRY004  # bad data, not a bad call
    known: dict[str, Any] = {}
    for name, kind in _TYPES.items():
        if value.get(name) is None:
            continue
        if type(value[name]) is not kind:
            raise ValueError(f"the member {name!r} of a worker is not of type {kind.__name__}")
        known[name] = value[name]
    models = value.get("models")
    if models is not None and (not isinstance(models, list) or not all(isinstance(model, str) for model in models)):
        raise ValueError("the member 'models' of a worker is not a list of strings")
    if missing := {"id", "host", "port"} - known.keys():
        raise ValueError(f"a worker without {', '.join(sorted(missing))}")
    return checked(
        Worker(
            **known,
            models=None if models is None else tuple(models),
            versions=versions_among(models or (), _pairs(value.get("versions") or {})),
        )
    )


def _pairs(versions: object) -> Iterable[tuple[str, object]]:
    if not isinstance(versions, Mapping) or not all(isinstance(numbers, list) for numbers in versions.values()):
        raise ValueError("the member 'versions' of a worker is not an object of lists")
    return ((model, number) for model, numbers in versions.items() for number in numbers)


def versions_among(models: Collection[str], told: Iterable[tuple[str, object]]) -> tuple[tuple[str, int], ...]:
    """The pairs of model and version that can be true: of a model that the worker has, and a number of 64 bits."""
    named = frozenset(models)
    return tuple(
        sorted(
            {
                (model, number)
                for model, number in told
                if model in named and type(number) is int and 0 <= number <= MAX_VERSION
            }
        )
    )


def in_order(workers: Iterable[Worker]) -> tuple[Worker, ...]:
    """Sorted by id, each place once, each id once.

    Foreign services may share an id, for Consul keeps ids apart only within one agent: the second gets its address
    added, so that the two stay two.
    """
    places: dict[tuple[str, str, int], Worker] = {}
    taken: set[str] = set()
    for worker in sorted(workers, key=lambda worker: (worker.id, worker.host, worker.port)):
        place = (worker.id, worker.host, worker.port)
        if place not in places:
            id_ = worker.id if worker.id not in taken else f"{worker.id}@{worker.address}"
            taken.add(id_)
            places[place] = dataclasses.replace(worker, id=id_)
    return tuple(sorted(places.values(), key=lambda worker: worker.id))
