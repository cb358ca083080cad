"""The embedded registry's memory: services, their checks, and what time does to them. Pure; its clock is injected.

Every effective change of a service gets a new index, and nothing else does: that is what makes a blocking query return
for news only. Whoever asks about a service that has no instance sees the index of the last service that lost its last
one, as in Consul: it must have an index that moves when the service appears, and one that never goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from discovery.embedded_payload import CheckDefinition, ServiceDefinition
from discovery.records import MAINTENANCE_PREFIX

MAX_INSTANCES = 10_000


class Full(Exception):
    """There is no room for one more instance."""


@dataclass(slots=True)
class _Check:
    definition: CheckDefinition
    status: str
    output: str = ""
    expires_at: float | None = None  # of the heartbeat; None while it is not awaited
    critical_since: float | None = None

    @property
    def reaped_at(self) -> float | None:
        if self.critical_since is None or self.definition.reap_after is None:
            return None
        return self.critical_since + self.definition.reap_after


@dataclass(slots=True)
class _Instance:
    definition: ServiceDefinition
    checks: dict[str, _Check] = field(default_factory=dict)

    def entry(self) -> dict[str, Any]:
        """The record as Consul's health endpoint shows it."""
        service = self.definition
        return {
            "Node": {"Node": "embedded", "Address": "127.0.0.1"},
            "Service": {
                "ID": service.id,
                "Service": service.name,
                "Tags": list(service.tags),
                "Address": service.address,
                "Port": service.port,
                "Meta": dict(service.meta),
                "Weights": dict(service.weights),
            },
            "Checks": [
                {
                    "Node": "embedded",
                    "CheckID": check_id,
                    "Name": check.definition.name,
                    "Status": check.status,
                    "Output": check.output,
                    "ServiceID": service.id,
                    "ServiceName": service.name,
                }
                for check_id, check in self.checks.items()
            ],
        }


class Catalogue:
    """All services. Methods that name an id return False where it is unknown."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._instances: dict[str, _Instance] = {}
        self._owners: dict[str, str] = {}  # check id to instance id: beats are by far the most frequent calls
        self._index = 1
        self._indexes: dict[str, int] = {}  # of the services that have instances
        self._index_of_the_absent = 1

    @property
    def index(self) -> int:
        """The highest index there is. An asker with a higher one knows another life of this registry."""
        return self._index

    def index_of(self, name: str) -> int:
        """The index of the last change of the service."""
        return self._indexes.get(name, self._index_of_the_absent)

    def entries(self, name: str) -> list[dict[str, Any]]:
        """The records of the service's instances, healthy or not."""
        return [instance.entry() for instance in self._instances.values() if instance.definition.name == name]

    def register(self, definition: ServiceDefinition, *, replace_checks: bool) -> None:
        """List an instance. What it was known as under the same id is updated; checks keep their state.

        Checks it no longer names stay, unless `replace_checks`. Raises Full.
        """
        old = self._instances.get(definition.id)
        if old is None and len(self._instances) >= MAX_INSTANCES:
            raise Full(f"{MAX_INSTANCES} instances are registered")
        old_checks = old.checks if old else {}
        new = _Instance(definition, {} if replace_checks else dict(old_checks))
        for check in definition.checks:
            new.checks[check.id] = self._continued(check, old_checks.get(check.id))
        if old is not None and old.definition.name != definition.name:
            self.deregister(definition.id)
        self._instances[definition.id] = new
        self._disown(old_checks)
        self._owners.update(dict.fromkeys(new.checks, definition.id))
        if old is None or old.entry() != new.entry():
            self._touch(definition.name)

    def deregister(self, instance_id: str) -> bool:
        """Forget an instance and its checks."""
        instance = self._instances.pop(instance_id, None)
        if instance is None:
            return False
        self._disown(instance.checks)
        name = instance.definition.name
        self._touch(name)
        if not any(other.definition.name == name for other in self._instances.values()):
            self._index_of_the_absent = self._indexes.pop(name)
        return True

    def maintenance(self, instance_id: str, enable: bool, reason: str = "") -> bool:
        """Take an instance out of traffic by a critical check, or remove that check."""
        instance = self._instances.get(instance_id)
        if instance is None:
            return False
        before = instance.entry()
        check_id = MAINTENANCE_PREFIX + instance_id
        if enable:
            definition = CheckDefinition(check_id, "Service Maintenance Mode", None, "critical", None)
            instance.checks[check_id] = _Check(definition, "critical", reason)
        else:
            instance.checks.pop(check_id, None)
        if instance.entry() != before:
            self._touch(instance.definition.name)
        return True

    def beat(self, check_id: str) -> bool:
        """Pass a TTL check. A check that is not one is as unknown as one that does not exist."""
        instance = self._instances.get(self._owners.get(check_id, ""))
        check = instance.checks.get(check_id) if instance else None
        if instance is None or check is None or check.definition.ttl is None:
            return False
        changed = check.status != "passing"
        check.status, check.output, check.critical_since = "passing", "", None
        check.expires_at = self._clock() + check.definition.ttl
        if changed:
            self._touch(instance.definition.name)
        return True

    def expire(self) -> float | None:
        """Do what time demands: fail the checks without a beat, forget who failed for long. The result is when to call
        it again at the latest, None if nothing is due ever."""
        now = self._clock()
        due = []
        for instance in list(self._instances.values()):
            for check in instance.checks.values():
                if check.expires_at is not None and check.expires_at <= now:
                    check.status, check.output = "critical", "TTL expired"
                    check.critical_since, check.expires_at = now, None
                    self._touch(instance.definition.name)
            reaped = [check.reaped_at for check in instance.checks.values() if check.reaped_at is not None]
            if reaped and min(reaped) <= now:
                self.deregister(instance.definition.id)
                continue
            due += reaped + [check.expires_at for check in instance.checks.values() if check.expires_at is not None]
        return min(due, default=None)

    def _continued(self, definition: CheckDefinition, old: _Check | None) -> _Check:
        """A check as it goes on when it is registered again, or as it begins."""
        if old is not None and (old.definition.ttl is None) == (definition.ttl is None):
            return _Check(definition, old.status, old.output, old.expires_at, old.critical_since)
        check = _Check(definition, definition.initially)
        if definition.initially == "critical":
            check.critical_since = self._clock()
        elif definition.ttl is not None:
            check.expires_at = self._clock() + definition.ttl
        return check

    def _disown(self, checks: Iterable[str]) -> None:
        for check_id in checks:
            self._owners.pop(check_id, None)

    def _touch(self, name: str) -> None:
        self._index += 1
        self._indexes[name] = self._index
