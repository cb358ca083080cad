"""What only a real agent does: it asks the worker itself, it warns, and it can hang."""

from __future__ import annotations

import dataclasses
import signal
import time

import pytest
from aiohttp import web

from discovery.consul_announce import PATIENCE, Rhythm
from muster.values import Worker
from tests.consul_agent import ConsulAgent
from tests.discovery.harness import ConsulPlace, registry_at, serving_http, watching


async def test_a_worker_that_answers_503_gets_nothing_and_one_that_answers_429_gets_little(
    shared_consul: ConsulAgent, service: str
) -> None:
    status = 200

    async def ready(request: web.BaseRequest) -> web.Response:
        assert request.path == "/readyz"
        return web.Response(status=status)

    async with serving_http(ready) as port, registry_at(ConsulPlace(shared_consul), service) as registry:
        ann = Worker(id="ann", host="127.0.0.1", port=port, weight=10)
        async with registry.announce(ann), watching(registry) as eyes:
            await eyes.see(ann.id)
            status = 503
            await eyes.see()  # although it beats
            status = 429
            assert await eyes.see(ann.id) == (dataclasses.replace(ann, weight=1),)
            status = 200
            await eyes.until(lambda workers: workers == (ann,))


async def test_an_agent_that_hangs_keeps_nobody_waiting(
    consul_agent: ConsulAgent, service: str, healthy_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    ann = Worker(id="ann", host="127.0.0.1", port=healthy_port)
    async with registry_at(ConsulPlace(consul_agent), service, Rhythm(ttl=0.6)) as registry:
        async with registry.announce(ann) as listing, watching(registry) as eyes:
            await eyes.see(ann.id)
            consul_agent.signal(signal.SIGSTOP)
            began = time.monotonic()
            await listing.withdraw("draining")
        assert time.monotonic() - began < 2 * PATIENCE + 2
        assert [snapshot.workers for snapshot in eyes.snapshots] == [(ann,)]
    consul_agent.signal(signal.SIGCONT)
    assert "ann left without being taken off the list: " in caplog.text
    assert "no answer in time" in caplog.text
