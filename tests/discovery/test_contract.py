"""What a real Consul agent and the embedded registry have in common, seen through the same client."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from discovery import records
from discovery.consul_announce import PATIENCE, Rhythm
from discovery.consul_http import connected
from discovery.consul_settings import ConsulSettings
from discovery.consul_writes import ConsulWrites
from muster.values import Worker
from tests.discovery.harness import Place, ask, eventually, new_service, records_of, registry_at, watching

Make = Callable[[str], Worker]
BRISK = Rhythm(ttl=0.6)


async def test_a_watcher_sees_everything_a_worker_said_about_itself(place: Place, service: str, worker: Make) -> None:
    ann = dataclasses.replace(
        worker("ann"),
        models=("a/b, c%2Fd", "digits", "flowers é"),
        versions=(("a/b, c%2Fd", 1), ("digits", 2), ("digits", 2**63 - 1)),
        grpc_port=8500,
        version="1.2.3",
        replay_safe=True,
        capacity=32,
        weight=3,
    )
    async with registry_at(place, service) as registry, registry.announce(ann), watching(registry) as eyes:
        assert await eyes.see(ann.id) == (ann,)


async def test_a_watcher_tells_a_worker_without_models_from_one_that_does_not_say(
    place: Place, service: str, worker: Make
) -> None:
    ann, bob = worker("ann").serving({}), worker("bob")
    async with (
        registry_at(place, service) as registry,
        registry.announce(ann),
        registry.announce(bob),
        watching(registry) as eyes,
    ):
        assert [seen.models for seen in await eyes.see(ann.id, bob.id)] == [(), None]


async def test_the_first_snapshot_comes_at_once_even_when_nobody_is_there(place: Place, service: str) -> None:
    async with registry_at(place, service) as registry, watching(registry) as eyes:
        assert registry.contact_age is None
        await eyes.see(within=3)
        assert registry.contact_age is not None
        assert registry.contact_age < 2


async def test_a_watcher_learns_of_arrivals_and_departures_long_before_its_poll_ends(
    place: Place, service: str, worker: Make
) -> None:
    ann, bob = worker("ann"), worker("bob")
    async with registry_at(place, service) as registry, watching(registry) as eyes:
        await eyes.see()
        async with registry.announce(ann):
            await eyes.see(ann.id, within=3)
            async with registry.announce(bob):
                await eyes.see(ann.id, bob.id, within=3)
            await eyes.see(ann.id, within=3)
        await eyes.see(within=3)
    assert [snapshot.version for snapshot in eyes.snapshots] == [1, 2, 3, 4, 5]


async def test_announcing_has_listed_the_worker_when_its_block_begins(place: Place, service: str, worker: Make) -> None:
    async with registry_at(place, service) as registry, registry.announce(worker("ann")):
        assert len(await records_of(place, service)) == 1


async def test_leaving_takes_the_worker_off_the_list_at_once(place: Place, service: str, worker: Make) -> None:
    async with registry_at(place, service) as registry:
        async with registry.announce(worker("ann")):
            pass
        assert await records_of(place, service) == []


async def test_a_withdrawn_worker_gets_nothing_new_and_stays_listed(place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    async with (
        registry_at(place, service, BRISK) as registry,
        watching(registry) as eyes,
        registry.announce(ann) as listing,
    ):
        await eyes.see(ann.id)
        await listing.withdraw("draining")
        await eyes.see(within=3)
        (record,) = await records_of(place, service)
        assert "draining" in [check["Output"] or check.get("Notes") for check in record["Checks"]] + [
            check.get("Notes") for check in record["Checks"]
        ]


async def test_a_worker_that_changes_is_seen_changed_at_once_and_never_missing(
    place: Place, service: str, worker: Make
) -> None:
    ann = worker("ann").serving({"digits": [1]})
    async with (
        registry_at(place, service) as registry,
        watching(registry) as eyes,
        registry.announce(ann) as listing,
    ):
        await eyes.see(ann.id)
        began = len(eyes.snapshots)
        for version in range(2, 8):
            changed = ann.serving({"digits": [version - 1, version], "late": [version]})
            listing.update(changed)
            await eyes.until(lambda workers, changed=changed: workers == (changed,), within=Rhythm().beat)  # type: ignore[misc]
        assert all([one.id for one in seen.workers] == [ann.id] for seen in eyes.snapshots[began:])
        (record,) = await records_of(place, service)
        assert {check["Status"] for check in record["Checks"]} == {"passing"}


async def test_of_changes_in_a_row_the_last_one_counts(place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    async with registry_at(place, service) as registry, watching(registry) as eyes, registry.announce(ann) as listing:
        for version in range(1, 50):
            listing.update(ann.serving({"digits": [version]}))
        await eyes.until(lambda workers: workers == (ann.serving({"digits": [49]}),), within=Rhythm().beat)


async def test_a_change_outlives_an_outage_of_the_registry(own_place: Place, service: str, worker: Make) -> None:
    ann = worker("ann").serving({"digits": [1]})
    async with (
        registry_at(own_place, service, BRISK) as registry,
        watching(registry) as eyes,
        registry.announce(ann) as listing,
    ):
        await eyes.see(ann.id)
        await own_place.stop()
        listing.update(ann.serving({"digits": [2]}))
        listing.update(ann.serving({"digits": [3]}))
        await own_place.start()

        async def listed() -> bool:
            return [record["Service"]["Tags"] for record in await records_of(own_place, service)] == [
                ["model:digits", "version:digits/3"]
            ]

        await eventually(listed)


async def test_a_change_does_not_bring_a_withdrawn_worker_back(place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    async with (
        registry_at(place, service, BRISK) as registry,
        watching(registry) as eyes,
        registry.announce(ann) as listing,
    ):
        await eyes.see(ann.id)
        listing.update(ann.serving({"digits": [1]}))
        await listing.withdraw("draining")
        listing.update(ann.serving({"digits": [2]}))
        await eyes.see()
        known = len(eyes.snapshots)
        # Another worker comes and goes, and several beats are due meanwhile.
        async with registry.announce(worker("bob")):
            await eyes.see(worker("bob").id)
        await eyes.see()
        assert all(ann.id not in [one.id for one in seen.workers] for seen in eyes.snapshots[known:])


async def test_a_change_cannot_make_another_worker_of_it(place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    async with registry_at(place, service) as registry, registry.announce(ann) as listing:
        for other in (worker("bob"), dataclasses.replace(ann, port=ann.port % 65535 + 1)):
            with pytest.raises(ValueError, match="cannot become"):
                listing.update(other)
        with pytest.raises(ValueError, match="weight"):
            listing.update(dataclasses.replace(ann, weight=0))


async def test_no_repair_brings_a_withdrawn_worker_back(place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    async with (
        registry_at(place, service, Rhythm(ttl=0.6, assertion=0.1)) as registry,
        watching(registry) as eyes,
        registry.announce(ann) as listing,
    ):
        await eyes.see(ann.id)
        await listing.withdraw("draining")
        await eyes.see()
        known = len(eyes.snapshots)
        await ask(place, "PUT", f"/v1/agent/service/deregister/{ann.id}")
        # An announcement of another worker has come and gone, and several beats were due meanwhile.
        for name in ("bob", "cid", "dan"):
            async with registry.announce(worker(name)):
                await eyes.see(worker(name).id)
            await eyes.see()
        assert all(ann.id not in [one.id for one in seen.workers] for seen in eyes.snapshots[known:])


async def test_a_worker_whose_beats_stop_is_gone_after_its_ttl(place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    async with (
        registry_at(place, service) as registry,
        watching(registry) as eyes,
        connected(ConsulSettings(port=place.port)) as http,
    ):
        writes = ConsulWrites(http)
        await writes.register(records.registration(ann, service, ttl=0.5), afresh=True)
        await eyes.see(ann.id)
        await eyes.see(within=3)
        assert await writes.beat(records.ttl_check_id(ann.id))
        await eyes.see(ann.id, within=3)
        await writes.deregister(ann.id)


async def test_beats_keep_a_worker_listed_for_longer_than_its_ttl(place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    async with (
        registry_at(place, service, Rhythm(ttl=0.9)) as registry,
        watching(registry) as eyes,
        registry.announce(ann),
    ):
        await eyes.see(ann.id)
        # A worker without beats, listed now, shows when more than a TTL has gone by.
        async with connected(ConsulSettings(port=place.port)) as http:
            bob = worker("bob")
            await ConsulWrites(http).register(records.registration(bob, service, ttl=1.5), afresh=True)
            await eyes.see(ann.id, bob.id)
            await eyes.see(ann.id)
        assert all(ann in seen.workers for seen in eyes.snapshots if seen.version > 1)


async def test_a_worker_that_the_registry_forgot_registers_again(place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    async with registry_at(place, service) as registry, watching(registry) as eyes, registry.announce(ann):
        await eyes.see(ann.id)
        await ask(place, "PUT", f"/v1/agent/service/deregister/{ann.id}")
        await eyes.see(within=3)
        await eyes.see(ann.id, within=Rhythm().beat + 2)


async def test_a_registry_that_restarts_empty_has_its_worker_back_within_a_beat_or_so(
    own_place: Place, service: str, worker: Make
) -> None:
    ann = worker("ann")
    async with registry_at(own_place, service) as registry, watching(registry) as eyes, registry.announce(ann):
        await eyes.see(ann.id)
        await own_place.stop()
        await own_place.start()

        async def listed() -> bool:
            return len(await records_of(own_place, service)) == 1

        await eventually(listed, within=Rhythm().beat + 2)
        # The watcher follows the new life of the registry: it sees what happens from now on.
        async with registry.announce(worker("bob")):
            await eyes.see(ann.id, worker("bob").id)


async def test_an_outage_empties_no_snapshot(own_place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    async with registry_at(own_place, service) as registry, watching(registry) as eyes, registry.announce(ann):
        await eyes.see(ann.id)
        known = len(eyes.snapshots)
        await own_place.stop()

        async def noticed() -> bool:
            return registry.contact_age is not None and registry.contact_age > 0.5

        await eventually(noticed)
        assert len(eyes.snapshots) == known


async def test_a_worker_comes_up_without_its_registry_and_is_listed_when_that_comes(
    own_place: Place, service: str, worker: Make, caplog: pytest.LogCaptureFixture
) -> None:
    await own_place.stop()
    began = time.monotonic()
    async with registry_at(own_place, service, BRISK) as registry, registry.announce(worker("ann")):
        assert time.monotonic() - began < PATIENCE
        await own_place.start()

        async def listed() -> bool:
            return len(await records_of(own_place, service)) == 1

        await eventually(listed)
    complaints = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(complaints) == 1, "an outage is told once"
    assert "cannot be reached" in complaints[0].message


async def test_leaving_does_not_wait_for_a_registry_that_is_away(
    own_place: Place, service: str, worker: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async with registry_at(own_place, service) as registry:
        async with registry.announce(worker("ann")) as listing:
            await own_place.stop()
            began = time.monotonic()
            await listing.withdraw("draining")
        assert time.monotonic() - began < 2 * PATIENCE + 2
    assert "left without being taken off the list" in caplog.text


async def test_what_happens_to_other_services_is_no_news(place: Place, service: str, worker: Make) -> None:
    ann = worker("ann")
    other = new_service()
    async with (
        registry_at(place, service) as registry,
        registry_at(place, other, BRISK) as other_registry,
        watching(registry) as eyes,
        watching(other_registry) as other_eyes,
    ):
        await eyes.see()
        for name in ("bob", "cid"):
            async with other_registry.announce(worker(name)):
                await other_eyes.see(worker(name).id)
            await other_eyes.see()
        async with registry.announce(ann):
            await eyes.see(ann.id)
            assert [seen.workers for seen in eyes.snapshots] == [(), (ann,)]


async def test_what_somebody_changed_in_a_registration_is_put_right(place: Place, service: str, worker: Make) -> None:
    ann = dataclasses.replace(worker("ann"), models=("digits",))
    async with (
        registry_at(place, service, Rhythm(ttl=0.6, assertion=0.3)) as registry,
        watching(registry) as eyes,
        registry.announce(ann),
    ):
        await eyes.see(ann.id)
        meddled = {"ID": ann.id, "Name": service, "Address": ann.host, "Port": ann.port, "Tags": ["model:other"]}
        await ask(place, "PUT", "/v1/agent/service/register", meddled)
        await eyes.until(lambda workers: [one.models for one in workers] == [("other",)])
        await eyes.until(lambda workers: workers == (ann,))


async def test_maintenance_that_an_operator_set_outlasts_our_repairs_and_changes(
    place: Place, service: str, worker: Make
) -> None:
    ann = worker("ann")
    async with (
        registry_at(place, service, Rhythm(ttl=0.6, assertion=0.1)) as registry,
        watching(registry) as eyes,
        registry.announce(ann) as listing,
    ):
        await eyes.see(ann.id)
        await ask(place, "PUT", f"/v1/agent/service/maintenance/{ann.id}?enable=true&reason=disk")
        await eyes.see()
        meddled = {"ID": ann.id, "Name": service, "Address": ann.host, "Port": ann.port, "Tags": ["meddled"]}
        for version in (1, 2):  # by the second time, all that came with the first is done
            await ask(place, "PUT", "/v1/agent/service/register", meddled)
            listing.update(ann.serving({"digits": [version]}))

            async def repaired(tags: tuple[str, ...] = ("model:digits", f"version:digits/{version}")) -> bool:
                (record,) = await records_of(place, service)
                return tuple(record["Service"]["Tags"]) == tags

            await eventually(repaired)
        (record,) = await records_of(place, service)
        assert records.health(record["Checks"]) is records.Health.MAINTENANCE
        assert eyes.snapshots[-1].workers == ()
        await ask(place, "PUT", f"/v1/agent/service/maintenance/{ann.id}?enable=false")
        await eyes.see(ann.id)


async def test_a_record_that_points_nowhere_hides_no_worker(
    place: Place, service: str, worker: Make, caplog: pytest.LogCaptureFixture
) -> None:
    ann = worker("ann")
    for number, address in enumerate(("169.254.169.254", "not a host", "224.0.0.1")):
        poison = {"ID": f"poison-{number}", "Name": service, "Address": address, "Port": 80}
        await ask(place, "PUT", "/v1/agent/service/register", poison)
    await ask(place, "PUT", "/v1/agent/service/register", {"ID": "portless", "Name": service, "Address": "10.0.0.1"})
    async with registry_at(place, service) as registry, watching(registry) as eyes, registry.announce(ann):
        await eyes.see(ann.id)
    assert "left out: 4" in caplog.text


async def test_workers_come_in_the_order_of_their_ids(place: Place, service: str, worker: Make) -> None:
    names = ("cid", "ann", "bob")
    async with registry_at(place, service) as registry, watching(registry) as eyes, AsyncExitStack() as life:
        for name in names:
            await life.enter_async_context(registry.announce(worker(name)))
        workers = await eyes.see(*(worker(name).id for name in names))
        assert [one.id for one in workers] == sorted(one.id for one in workers)


async def test_a_cancelled_announcement_leaves_nothing_behind(place: Place, service: str, worker: Make) -> None:
    async with registry_at(place, service) as registry:

        async def announce_for_ever() -> None:
            async with registry.announce(worker("ann")):
                await asyncio.Event().wait()

        task = asyncio.create_task(announce_for_ever())

        async def listed() -> bool:
            return len(await records_of(place, service)) == 1

        await eventually(listed)
        task.cancel()
        await asyncio.wait([task])
        assert await records_of(place, service) == []
