"""Requests for the proxy itself go through aiohttp's parser as well: the two must not disagree to anyone's harm."""

from __future__ import annotations

import pytest

from tests.proxy.harness import ScriptedWorker, cluster, get

OWN = [b"/healthz", b"/", b"/workers", b"/metrics"]


async def test_an_upgrade_that_the_proxy_does_not_serve_costs_nobody_an_answer() -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"
    async with cluster(ScriptedWorker()) as proxy, proxy.client() as client:
        for _ in range(3):
            assert (await client.ask(get(b"/healthz", upgrade))).status == 200
            assert (await client.ask(get(b"/healthz"))).status == 200


@pytest.mark.parametrize("target", OWN)
async def test_a_head_of_any_allowed_size_is_served(target: bytes) -> None:
    async with cluster(ScriptedWorker()) as proxy, proxy.client() as client:
        assert (await client.ask(get(target, b"X-Long: " + b"a" * 12_000 + b"\r\n"))).status == 200
        assert (await client.ask(get(target + b"?" + b"a" * 12_000))).status == 200
        assert (await client.ask(get(target, b"A: b\r\n" * 120))).status == 200


@pytest.mark.parametrize(
    "rest",
    [b"/%ff%00", b"/%0d%0aX-Evil: 1".replace(b" ", b"%20"), b"//evil.example/", b"/../..", b"/a?b=%e4",
     b"/:80@evil", b"?x", b"/;a=b|c{d}\"<>", b"/" + b"%41" * 100],
)  # fmt: skip
async def test_a_redirect_names_the_worker_and_repeats_the_target_whatever_it_is(rest: bytes) -> None:
    worker = ScriptedWorker()
    async with cluster(worker) as proxy, proxy.client() as client:
        for _ in range(2):
            got = await client.ask(get(b"/p2p" + rest))
            assert got.status == 307
            (location,) = got.values(b"location")
            assert location.startswith(b"http://127.0.0.1:%d/" % worker.port)
            assert location.endswith(rest)
