"""The proxy as a list of lifetimes: the registry, the first snapshot, only then the port; drained on the way out."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from aiohttp import web

from discovery.addresses import open_registry
from discovery.names import Names
from discovery.probe import probing
from discovery.registry import Registry
from muster.lifetime import Stop, supervised
from proxy.access import AccessLog
from proxy.balancing import STRATEGIES
from proxy.commons import Commons
from proxy.departures import Departures
from proxy.doors import Door, SharedDoor, own_door
from proxy.doubt import Doubt
from proxy.grpc_api import GrpcServer, grpc_server
from proxy.health import Policy, Rest
from proxy.http_api import HttpApi
from proxy.line_writer import line_writer
from proxy.metrics import View
from proxy.open_files import within_open_files
from proxy.p2p import PeerToPeer
from proxy.place import Place
from proxy.pool import Pool
from proxy.probes import Prober
from proxy.relay import Relay
from proxy.replay import Budget
from proxy.rewrite import RequestIds
from proxy.roster import Roster
from proxy.seats import Limits
from proxy.settings import ProxySettings
from proxy.siblings import Siblings
from proxy.stats import Stats

log = logging.getLogger(__name__)

FIRST_SNAPSHOT = 5.0
"""Seconds to wait for the registry's first word before listening anyway: an honest 503 beats a closed port."""


async def serve(settings: ProxySettings, stop: Stop, place: Place | None = None) -> None:
    """Run until `stop`. `place` is that of this process among several, whose part of the settings these are."""
    loop = asyncio.get_running_loop()
    settings = within_open_files(settings)
    siblings = None if place is None else Siblings(place)  # the parent watches it from now on
    async with AsyncExitStack() as life:
        registry = await life.enter_async_context(open_registry(settings.registry, os.environ, stop, settings.service))
        roster = _roster(settings, loop, place)
        api = HttpApi(PeerToPeer(roster, enabled=settings.p2p, ttl=settings.p2p_ttl))
        pages = await life.enter_async_context(_pages(settings, api))
        names = Names()
        pool = Pool(
            loop,
            names,
            connect_timeout=settings.connect_timeout,
            idle_timeout=settings.upstream_idle,
            max_head=settings.max_head,
        )
        request_ids = RequestIds(secrets.token_hex(4))
        replay = Budget(settings.replay_body, settings.replay_total)
        commons = Commons(loop, settings, roster, Stats(), request_ids, pool, replay, pages)
        commons.access = life.enter_context(_access(settings, loop))
        relay = Relay(commons)
        roster.fitness.on_eject.append(relay.forsake)

        probe = await life.enter_async_context(probing(settings.connect_timeout, names))
        doubt = Doubt(commons.adopt, probe.ask)
        departures = Departures(probe.look, lambda seat: roster.fitness.eject(seat, "left"))
        commons.on_left.append(departures.add)
        prober = Prober(roster, probe.look, lambda: registry.contact_age, settings.registry_stale)
        api.view = View(commons, registry, prober)
        if siblings is not None:
            siblings.tell, api.siblings = api.tell, siblings
        door, calls = await life.enter_async_context(_bound(relay, commons, siblings))
        first = asyncio.Event()
        await life.enter_async_context(supervised("the watch", _follow(registry, doubt, first), stop))
        await life.enter_async_context(supervised("the doubt", doubt.settle(), stop))
        await life.enter_async_context(supervised("the departures", departures.settle(), stop))
        await life.enter_async_context(supervised("the sweep", relay.sweep(), stop))
        await life.enter_async_context(supervised("the prober", prober.run(), stop))
        await _either(first, stop)
        if not stop.requested:
            if calls is not None:
                await calls.start()
                log.info("listening for gRPC on port %d, messages up to %.3g MiB", calls.port, calls.largest / 2**20)
            await door.open()
        await stop.wait()


@asynccontextmanager
async def _pages(settings: ProxySettings, api: HttpApi) -> AsyncIterator[web.Server]:
    """What makes aiohttp's side of a connection to the pages."""
    largest = 2 * settings.max_head  # what the relay let through, with its own headers added, aiohttp takes, too
    runner = web.AppRunner(
        api.application(),
        access_log=None,
        handle_signals=False,
        keepalive_timeout=75,
        max_line_size=largest,
        max_field_size=largest,
        max_headers=2 * settings.max_headers,
    )
    await runner.setup()
    try:
        assert runner.server is not None  # noqa: S101  # what setup() is for
        yield runner.server
    finally:
        await runner.cleanup()


@contextmanager
def _access(settings: ProxySettings, loop: asyncio.AbstractEventLoop) -> Iterator[AccessLog | None]:
    """The access log, on standard output."""
    if settings.access_log == "off":
        yield None
        return
    with line_writer(1, loop) as lines:
        yield AccessLog(lines, as_json=settings.access_log == "json")


def _roster(settings: ProxySettings, loop: asyncio.AbstractEventLoop, place: Place | None) -> Roster:
    policy = Policy(
        Rest(settings.rest, settings.rest_longest, jitter=0.2),
        errors=settings.max_errors,
        rate=settings.max_error_rate,
        max_ejected=settings.max_ejected,
        slow_start=settings.slow_start,
    )
    limits = Limits(settings.max_in_flight, *(() if place is None else (place.of, place.number)))
    roster = Roster(loop.time, policy, strategy=STRATEGIES[settings.strategy], limits=limits)
    roster.may_wait(loop, settings.queue, settings.queue_timeout)
    return roster


async def _follow(registry: Registry, doubt: Doubt, first: asyncio.Event) -> None:
    async for snapshot in registry.watch():
        doubt.apply(snapshot)
        first.set()


async def _either(first: asyncio.Event, stop: Stop) -> None:
    """Wait for the first snapshot, but not for ever, and not if the end comes before."""
    log.info("waiting for the registry's first word, %g seconds at most", FIRST_SNAPSHOT)
    waits = {asyncio.ensure_future(first.wait()), asyncio.ensure_future(stop.wait())}
    await asyncio.wait(waits, timeout=FIRST_SNAPSHOT, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)  # why it ends is for whoever waits for that


@asynccontextmanager
async def _bound(
    relay: Relay, commons: Commons, siblings: Siblings | None
) -> AsyncIterator[tuple[Door, GrpcServer | None]]:
    """The ports are ours from the beginning, so that one that is taken is found out at once; they open later."""
    settings = commons.settings
    door: Door
    if siblings is None:
        door = await own_door(relay.accept, settings.host, settings.port)
    else:
        door = SharedDoor(relay.accept, siblings.place, siblings.link)
    calls: GrpcServer | None = None
    try:
        calls = grpc_server(commons, shared=siblings is not None) if settings.grpc else None
        yield door, calls
    finally:
        door.close()
        commons.leave()
        await asyncio.gather(relay.drain(), *([] if calls is None else [calls.drain()]))
