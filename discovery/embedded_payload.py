"""What may be registered with the embedded registry: Consul's registration JSON, read strictly. Pure.

As in Consul, member names count in any case and with or without underscores, and unknown ones are a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MIN_REAP = 60.0  # seconds; Consul raises shorter ones to this
_SERVICE_MEMBERS = frozenset({"id", "name", "address", "port", "tags", "meta", "weights", "check", "checks"})
_CHECK_MEMBERS = frozenset(
    {"checkid", "name", "status", "ttl", "http", "interval", "timeout", "deregistercriticalserviceafter"}
)


class BadPayload(ValueError):
    """The text is the answer: one sentence, status 400."""


@dataclass(frozen=True, slots=True)
class CheckDefinition:
    """`ttl` in seconds; None for a check that is kept and shown, but not judged by: the registry probes nobody."""

    id: str
    name: str
    ttl: float | None
    initially: str
    reap_after: float | None  # seconds of being critical after which the service is forgotten


@dataclass(frozen=True, slots=True)
class ServiceDefinition:
    """One instance of a service."""

    id: str
    name: str
    address: str
    port: int
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    weights: Mapping[str, int]
    checks: tuple[CheckDefinition, ...]


def duration(text: object) -> float:
    """Seconds of a duration as Go writes it: `10s`, `1m30s`, `500ms`. Raises BadPayload."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise BadPayload(f"Invalid duration {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", text))


def service(payload: object) -> ServiceDefinition:
    """The definition in the parsed body of `PUT /v1/agent/service/register`. Raises BadPayload."""
    given = _members(payload, _SERVICE_MEMBERS)
    name = _text(given, "name")
    if not name:
        raise BadPayload("Missing service name")
    id_ = _text(given, "id") or name
    checks = _list(given, "checks", Mapping) + ([given["check"]] if given.get("check") else [])
    tags = _list(given, "tags", str)
    return ServiceDefinition(
        id=id_,
        name=name,
        address=_text(given, "address"),
        port=_port(given.get("port") or 0),
        tags=tuple(tags),
        meta=_meta(given.get("meta") or {}),
        weights=_weights(given.get("weights") or {}),
        checks=tuple(_check(check, f"service:{id_}:{number}") for number, check in enumerate(checks, 1)),
    )


def _members(payload: object, allowed: frozenset[str]) -> dict[str, Any]:
    if not isinstance(payload, Mapping):
        raise BadPayload("Request decode error: not a JSON object")
    given = {}
    for member, value in payload.items():
        plain = member.lower().replace("_", "")
        if plain not in allowed:
            raise BadPayload(f"Request decode error: unknown field {member!r}")
        given[plain] = value
    return given


def _text(given: Mapping[str, Any], member: str) -> str:
    value = given.get(member) or ""
    if not isinstance(value, str):
        raise BadPayload(f"Request decode error: {member} is not a string")
    return value


def _list(given: Mapping[str, Any], member: str, kind: type[Any]) -> list[Any]:
    value = given.get(member) or []
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise BadPayload(f"Request decode error: {member} is not a list of the right kind")
    return value


def _port(number: object) -> int:
    if type(number) is not int or not 0 <= number <= 65535:
        raise BadPayload(f"Invalid port {number!r}")
    return number


def _meta(meta: object) -> dict[str, str]:
    if not isinstance(meta, Mapping) or len(meta) > 64:
        raise BadPayload("Invalid Service Meta: not an object of at most 64 pairs")
    for key, value in meta.items():
        if not _META_KEY.fullmatch(key) or not isinstance(value, str) or len(value.encode()) > 512:
            raise BadPayload(f"Invalid Service Meta: {key!r} or its value (strings, at most 512 bytes)")
    return dict(meta)


def _weights(weights: object) -> dict[str, int]:
    given = _members(weights, frozenset({"passing", "warning"}))
    passing, warning = given.get("passing", 1), given.get("warning", 1)
    if type(passing) is not int or type(warning) is not int or not (1 <= passing <= 65535 and 0 <= warning <= 65535):
        raise BadPayload("Invalid Weight: Passing is 1 to 65535, Warning 0 to 65535")
    return {"Passing": passing, "Warning": warning}


def _check(payload: object, default_id: str) -> CheckDefinition:
    given = _members(payload, _CHECK_MEMBERS)
    initially = _text(given, "status") or "critical"
    if initially not in ("passing", "warning", "critical"):
        raise BadPayload(f"Invalid check status {initially!r}")
    if ("ttl" in given) == ("http" in given):
        raise BadPayload("a check is either TTL or HTTP")
    ttl = duration(given["ttl"]) if "ttl" in given else None
    if ttl == 0:
        raise BadPayload("TTL must be > 0")
    reap = given.get("deregistercriticalserviceafter")
    return CheckDefinition(
        id=_text(given, "checkid") or default_id,
        name=_text(given, "name"),
        ttl=ttl,
        initially=initially if ttl is not None else "passing",
        reap_after=None if reap is None else max(duration(reap), _MIN_REAP),
    )
