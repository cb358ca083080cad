"""Workers as Consul writes them: the registration a worker sends, and the health records a proxy reads. Pure.

Consul keeps what it is given, so reading is the careful half: whatever stands in a record, requests are sent only to
an address that a worker can have, and one bad record never hides the good ones beside it.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from discovery.endpoints import is_port
from discovery.worker_json import MAX_WEIGHT, checked, in_order, versions_among
from muster import wire
from muster.values import Worker

META_VALUE_BYTES = 512  # Consul refuses longer ones
MAINTENANCE_PREFIX = "_service_maintenance:"
_NODE_MAINTENANCE = "_node_maintenance"
_ODD = re.compile(r"[^\w.:/~@+-]")  # in a tag: a model may be called anything, and tags are listed with commas


def ttl_check_id(worker_id: str) -> str:
    """The check that the worker's heartbeat passes."""
    return f"{worker_id}:ttl"


def registration(worker: Worker, service: str, ttl: float) -> dict[str, Any]:
    """The registration of `worker` as arguments of py-consul's `agent.service.register`.

    `ttl` is in seconds: without a heartbeat for so long the worker counts as dead. Both checks begin as passing,
    because only a worker that is ready announces itself. Raises ValueError for a worker that cannot be listed.
    """
    checked(worker)
    common = {"Status": "passing", "DeregisterCriticalServiceAfter": "1m"}  # the least that Consul takes
    return {
        "name": service,
        "service_id": worker.id,
        "address": worker.host,
        "port": worker.port,
        "tags": _tags(worker),
        "meta": _meta(worker),
        "weights": {"Passing": worker.weight, "Warning": 1},
        "check": {
            "CheckID": ttl_check_id(worker.id),
            "Name": "heartbeat of the serving loop",
            "TTL": f"{round(ttl * 1000)}ms",
            **common,
        },
        "extra_checks": [
            {
                "CheckID": f"{worker.id}:http",
                "Name": f"GET {wire.READYZ}",
                "HTTP": worker.url + wire.READYZ,
                "Interval": "1s",  # the shortest that Consul keeps
                "Timeout": "2s",
                **common,
            }
        ],
    }


def _tags(worker: Worker) -> list[str]:
    """`model:NAME` and `version:NAME/N`, so that Consul's own filters find who has a model, or a version of it."""
    models = [wire.TAG_MODEL + _escaped(model) for model in worker.models or ()]
    return models + [f"{wire.TAG_VERSION}{_escaped(model)}/{version}" for model, version in worker.versions]


def _escaped(name: str) -> str:
    return _ODD.sub(lambda odd: quote(odd[0], safe="", errors="surrogateescape"), name)


def _meta(worker: Worker) -> dict[str, str]:
    meta = {
        wire.META_VERSION: _clipped(worker.version),
        wire.META_REPLAY_SAFE: "true" if worker.replay_safe else "false",
        wire.META_CAPACITY: str(worker.capacity),
    }
    if worker.models is not None:  # for people; the tags are complete. Without a tag, "" tells none from unknown
        meta[wire.META_MODELS] = _clipped(",".join(map(_escaped, worker.models)))
    if worker.grpc_port is not None:
        meta[wire.META_GRPC_PORT] = str(worker.grpc_port)
    return meta


def _clipped(text: str) -> str:
    return text.encode()[:META_VALUE_BYTES].decode(errors="ignore")


class Health(enum.IntEnum):
    """What all checks of one service instance say together; the worst of them counts."""

    PASSING = 0
    WARNING = 1
    CRITICAL = 2
    MAINTENANCE = 3


def health(checks: Sequence[object]) -> Health:
    """The judgement over Consul's check records, those of the node included. A check nobody understands is critical."""
    return max(map(_check_health, checks), default=Health.PASSING)


def _check_health(check: object) -> Health:
    if not isinstance(check, Mapping):
        return Health.CRITICAL
    check_id = str(check.get("CheckID", ""))
    if check_id == _NODE_MAINTENANCE or check_id.startswith(MAINTENANCE_PREFIX):
        return Health.MAINTENANCE
    return {"passing": Health.PASSING, "warning": Health.WARNING}.get(str(check.get("Status")), Health.CRITICAL)


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What one answer of Consul says: the workers that are fit to serve, the ids of those in maintenance, and a
    sentence for each useless record."""

    workers: tuple[Worker, ...]
    withdrawn: frozenset[str] = frozenset()
    complaints: tuple[str, ...] = ()


def read(answer: object) -> Reading:
    """The parsed JSON of `/v1/health/service/NAME`. Raises ValueError if it is not a list of records at all."""
    if not isinstance(answer, list):
        raise ValueError("the registry's answer is not a list")  # noqa: TRY004  # bad data, not a bad call
    workers, withdrawn, complaints = [], set(), []
    for entry in answer:
        try:
            service = _member(entry, "Service", Mapping)
            state = health(_member(entry, "Checks", list))
            worker = _worker(entry, service, state)
        except ValueError as error:
            complaints.append(str(error))
            continue
        if worker is not None:
            workers.append(worker)
        elif state is Health.MAINTENANCE:
            withdrawn.add(str(service.get("ID")))
    return Reading(in_order(workers), frozenset(withdrawn), tuple(sorted(complaints)))


def _worker(entry: object, service: Mapping[str, Any], state: Health) -> Worker | None:
    """None if it is not fit to serve at the moment."""
    weight = _weight(service, state)
    if weight == 0:
        return None
    tags, meta = service.get("Tags"), service.get("Meta")
    meta = meta if isinstance(meta, Mapping) else {}
    models, versions = _offered(tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ())
    # A service without an address is reached at its node's: so Consul documents it.
    host = service.get("Address") or _member(entry, "Node", Mapping).get("Address")
    return checked(
        Worker(
            id=str(service.get("ID")),
            host=str(host),
            port=service.get("Port", 0),
            models=models if models or meta.get(wire.META_MODELS) == "" else None,
            versions=versions,
            weight=weight,
            **_from_meta(meta),
        )
    )


def _member(entry: object, name: str, kind: type[Any]) -> Any:
    value = entry.get(name) if isinstance(entry, Mapping) else None
    if not isinstance(value, kind):
        raise ValueError(f"a record without a proper {name!r}")  # noqa: TRY004
    return value


def _weight(service: Mapping[str, Any], state: Health) -> int:
    """The share of traffic, 0 for none: an instance that warns gets its Warning weight, one in worse state nothing."""
    if state > Health.WARNING:
        return 0
    weights = service.get("Weights")
    weight = weights.get("Passing" if state is Health.PASSING else "Warning", 1) if isinstance(weights, Mapping) else 1
    return min(weight, MAX_WEIGHT) if isinstance(weight, int) and weight >= 0 else 1


@lru_cache(maxsize=512)  # most workers of a cluster have the same, and say so again in every answer
def _offered(tags: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """The models and their versions that tags name."""
    models = tuple(name for name in map(_unescaped, _tagged(tags, wire.TAG_MODEL)) if name)
    told = (tag.rpartition("/") for tag in _tagged(tags, wire.TAG_VERSION))
    return models, versions_among(
        models, ((_unescaped(model), _number(number, digits=19)) for model, _, number in told)
    )


def _tagged(tags: Sequence[str], prefix: str) -> list[str]:
    return [tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)]


def _unescaped(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _from_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in a record's metadata. A value that makes no sense is as good as none: others may use our keys."""
    grpc_port = _number(meta.get(wire.META_GRPC_PORT))
    return {
        "grpc_port": grpc_port if is_port(grpc_port) else None,
        "version": str(meta.get(wire.META_VERSION, "")),
        "replay_safe": meta.get(wire.META_REPLAY_SAFE) == "true",
        "capacity": _number(meta.get(wire.META_CAPACITY)) or 0,
    }


def _number(text: object, digits: int = 9) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= digits else None
