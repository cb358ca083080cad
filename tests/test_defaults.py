"""Settings of different programs whose defaults have to fit each other."""

from __future__ import annotations

from dataclasses import fields

from proxy.settings import ProxySettings
from worker.connections import KEEPALIVE
from worker.settings import WorkerSettings


def default(settings: type, name: str) -> float:
    return next(float(field.default) for field in fields(settings) if field.name == name)  # type: ignore[arg-type]


def test_a_leaving_worker_serves_on_for_longer_than_anybody_may_keep_its_address() -> None:
    assert default(WorkerSettings, "drain_delay") > default(ProxySettings, "p2p_ttl")


def test_the_proxy_gives_up_an_idle_connection_before_the_worker_does() -> None:
    assert default(ProxySettings, "upstream_idle") < KEEPALIVE
