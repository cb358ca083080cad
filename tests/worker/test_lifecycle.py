"""Versions come and go: what is loaded, served and unloaded, in which order, and what is said of it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event, Semaphore

import pytest

from tests.worker.lives import PATIENCE, config, entry, living, publish, until
from worker.models.catalogue import Stage
from worker.models.finding import Found
from worker.models.servable import Servable
from worker.status import Code, StatusError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Where the versions of the model "m" are put."""
    base = tmp_path / "m"
    base.mkdir()
    return base


def one_model(base: Path) -> dict[str, str]:
    return {"model_name": "m", "model_base_path": str(base)}


async def test_the_highest_version_is_loaded_and_no_other(base: Path) -> None:
    for version in (1, "00000123", 9):
        publish(base, version)
    (base / "not-a-version").mkdir()
    (base / "1e3").mkdir()
    async with living(**one_model(base)) as life:
        await life.manager.ready()
        assert life.catalogue.available == {"m": (123,)}
        assert life.loader.loaded == [("m", 123)]


async def test_a_new_version_loads_beside_the_old_one_which_then_leaves_and_stays_listed(base: Path) -> None:
    publish(base, 1)
    async with living(**one_model(base)) as life:
        await life.manager.ready()
        let_go = life.loader.hold(2)
        publish(base, 2)
        await until(lambda: life.stages() == {1: Stage.AVAILABLE, 2: Stage.LOADING})
        let_go()
        await until(lambda: life.stages() == {1: Stage.END, 2: Stage.AVAILABLE})
        assert life.loader.closed == [("m", 1)]
        assert [servable.version for servable in life.unloading] == [1]


async def test_with_memory_for_one_the_old_version_leaves_before_the_new_one_is_loaded(base: Path) -> None:
    publish(base, 1)
    async with living(version_transition="resource", **one_model(base)) as life:
        await life.manager.ready()
        let_go = life.loader.hold(2)
        with life.catalogue.use("m"):
            publish(base, 2)
            await until(lambda: life.stages() == {1: Stage.UNLOADING, 2: Stage.START})
        await until(lambda: life.stages() == {1: Stage.END, 2: Stage.LOADING})
        assert life.loader.closed == [("m", 1)]
        let_go()
        await life.serves(m=[2])


async def test_a_version_is_closed_only_when_the_last_request_for_it_is_done(base: Path) -> None:
    publish(base, 1)
    async with living(**one_model(base)) as life:
        await life.manager.ready()
        with life.catalogue.use("m") as first, life.catalogue.use("m", 1):
            publish(base, 2)
            await until(lambda: life.stages() == {1: Stage.UNLOADING, 2: Stage.AVAILABLE})
            with life.catalogue.use("m") as second:
                assert (first.version, second.version) == (1, 2)
            publish(base, 3)  # a request that hangs holds up nobody else
            await life.serves(m=[3])
            assert ("m", 1) not in life.loader.closed
        await until(lambda: ("m", 1) in life.loader.closed)


async def test_a_new_version_that_never_loads_leaves_the_old_one_serving_and_says_why(base: Path) -> None:
    publish(base, 1)
    async with living(max_num_load_retries=2, **one_model(base)) as life:
        await life.manager.ready()
        publish(base, 2, "broken")
        await until(lambda: life.stages().get(2) is Stage.END)
        assert life.loader.loaded == [("m", 1), *[("m", 2)] * 3]
        assert life.catalogue.available == {"m": (1,)}
        (status, _) = life.catalogue.statuses("m")
        assert (status.code, status.message) == (Code.UNKNOWN, "the model is broken")


async def test_a_version_that_failed_is_tried_again_when_its_files_change(base: Path) -> None:
    publish(base, 1)
    async with living(max_num_load_retries=0, **one_model(base)) as life:
        await life.manager.ready()
        broken = publish(base, 2, "broken")
        await until(lambda: life.stages().get(2) is Stage.END)
        (broken / "model").write_text("whole")
        await life.serves(m=[2])


async def test_removing_a_version_ends_its_retries_and_putting_it_back_begins_afresh(base: Path) -> None:
    publish(base, 1)
    async with living(load_retry_interval_micros=3_600_000_000, **one_model(base)) as life:
        await life.manager.ready()
        broken = publish(base, 2, "broken")
        await until(lambda: ("m", 2) in life.loader.loaded)
        assert life.stages()[2] is Stage.LOADING
        shutil.rmtree(broken)
        await until(lambda: life.stages().get(2) is Stage.END)
        publish(base, 2)
        await life.serves(m=[2])


async def test_a_directory_without_versions_unloads_the_model_and_one_that_is_gone_changes_nothing(base: Path) -> None:
    publish(base, 1)
    async with living(**one_model(base)) as life:
        await life.manager.ready()
        away = shutil.move(base, base.with_name("away"))
        publish(base.with_name("other"), 1)
        await life.manager.reload(config(entry("m", base), entry("other", base.with_name("other"))))
        assert life.catalogue.available == {"m": (1,), "other": (1,)}
        shutil.move(away, base)
        shutil.rmtree(base / "1")
        await life.serves(other=[1])
        await until(lambda: life.stages() == {1: Stage.END})


async def test_a_version_that_is_outdated_before_it_is_loaded_is_never_served(base: Path) -> None:
    publish(base, 1)
    async with living(**one_model(base)) as life:
        await life.manager.ready()
        served: set[tuple[int, ...]] = set()
        life.catalogue.on_change(lambda: served.add(life.catalogue.available["m"]))
        let_go = life.loader.hold(2)
        publish(base, 2)
        await until(lambda: life.stages().get(2) is Stage.LOADING)
        publish(base, 3)
        await until(lambda: 3 in life.stages())
        let_go()
        await life.serves(m=[3])
        await until(lambda: life.stages() == {1: Stage.END, 2: Stage.END, 3: Stage.AVAILABLE})
        assert served == {(1, 3), (3,)}


async def test_a_version_that_is_half_copied_waits_and_is_served_when_it_is_whole(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(base, 1)
    async with living(settle_time=0.3, **one_model(base)) as life:
        await life.manager.ready()
        copy = base / "2"
        copy.mkdir()
        for part in range(40):  # longer than it takes to settle, but never still
            (copy / f"part-{part}").write_text("x")
            await asyncio.sleep(0.01)
        assert 2 not in life.stages()
        assert caplog.text.count("/2 is being written") == 1
        (copy / "model").write_text("whole")
        await life.serves(m=[2])
        assert life.loader.loaded == [("m", 1), ("m", 2)]


async def test_files_that_change_while_they_are_loaded_are_loaded_again(base: Path) -> None:
    publish(base, 1)
    async with living(max_num_load_retries=0, **one_model(base)) as life:
        await life.manager.ready()
        let_go = life.loader.hold(2)
        second = publish(base, 2)
        await until(lambda: life.stages().get(2) is Stage.LOADING)
        (second / "late").write_text("x")
        let_go()
        await life.serves(m=[2])
        assert life.loader.loaded == [("m", 1), ("m", 2), ("m", 2)]
        assert life.loader.closed[0] == ("m", 2)


async def test_a_loader_that_breaks_in_a_way_nobody_thought_of_ends_one_version_and_not_the_worker(base: Path) -> None:
    async with living(load=lambda found, _: [][found.version], max_num_load_retries=0, **one_model(base)) as life:
        publish(base, 1)
        with pytest.raises(StatusError, match="list index out of range"):
            await life.manager.ready()
        assert life.stages() == {1: Stage.END}


async def test_a_start_that_cannot_succeed_says_which_model_and_why(base: Path) -> None:
    publish(base, 7, "broken")
    async with living(max_num_load_retries=1, **one_model(base)) as life:
        with pytest.raises(StatusError) as caught:
            await life.manager.ready()
    assert caught.value.canonical is Code.UNKNOWN
    assert caught.value.message == (
        "1 servable(s) did not become available: {{name: m version: 7} due to error: UNKNOWN: the model is broken}, }"
    )


async def test_the_start_waits_for_a_directory_that_is_not_there_yet(base: Path) -> None:
    async with living(**one_model(base / "later")) as life:
        ready = asyncio.ensure_future(life.manager.ready())
        done, _ = await asyncio.wait([ready], timeout=0.1)
        assert not done
        publish(base / "later", 1)
        await ready
        assert life.catalogue.available == {"m": (1,)}


async def test_what_is_looked_for_once_is_looked_for_again_with_a_new_configuration_only(base: Path) -> None:
    publish(base, 1)
    async with living(file_system_poll_wait_seconds=0, **one_model(base)) as life:
        await life.manager.ready()
        publish(base, 2)
        publish(base.with_name("other"), 1)
        assert life.catalogue.available == {"m": (1,)}
        await life.manager.reload(config(entry("m", base), entry("other", base.with_name("other"))))
        await life.serves(m=[2], other=[1])


async def test_a_call_that_hangs_in_an_old_version_holds_up_the_unloading_of_no_other(base: Path) -> None:
    done = asyncio.Event()

    async def calls_end(servable: Servable) -> None:
        if servable.version == 1:
            await done.wait()

    publish(base, 1)
    async with living(unloading=calls_end, **one_model(base)) as life:
        await life.manager.ready()
        for version in (2, 3):
            publish(base, version)
            await life.serves(m=[version])
        await until(lambda: life.loader.closed == [("m", 2)])
        done.set()
        await until(lambda: life.loader.closed == [("m", 2), ("m", 1)])


@pytest.mark.parametrize(("threads", "together"), [(0, 1), (2, 2)])
async def test_so_many_versions_are_closed_at_once_as_the_flag_says(base: Path, threads: int, together: int) -> None:
    closing, go_on = Semaphore(0), Event()
    begun: list[int] = []

    def load(found: Found, _: Callable[[], None]) -> Servable:
        def close() -> None:
            begun.append(found.version)
            closing.release()
            assert go_on.wait(PATIENCE)

        return Servable(found.name, found.version, {}, lambda *_: list, close)

    for name in ("a", "b"):
        publish(base / name, 1)
    both = config(*(entry(name, base / name) for name in ("a", "b")))
    one = {"model_name": "a", "model_base_path": str(base / "a")}
    async with living(load=load, num_unload_threads=threads, **one) as life:
        await life.manager.ready()
        await life.manager.reload(both)
        await life.manager.reload(config())
        await until(lambda: len(life.unloading) == 2)
        for _ in range(together):
            assert await asyncio.to_thread(closing.acquire, timeout=PATIENCE)
        assert len(begun) == together
        go_on.set()
        await until(lambda: life.stages("a") == life.stages("b") == {1: Stage.END})
