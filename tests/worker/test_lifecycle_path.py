"""A worker of a cluster serves whatever is at its path: what it waits for at the start, and what it follows later."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.worker.lives import PATIENCE, living, publish, until
from worker.models.catalogue import Stage
from worker.models.servable import ModelProblem


def saved(base: Path, version: int, words: str = "whole") -> Path:
    """A version that looks like a SavedModel to whoever only lists files."""
    directory = publish(base, version, words)
    (directory / "saved_model.pb").touch()
    return directory


async def test_a_directory_of_models_is_followed_as_models_and_versions_come_and_go(tmp_path: Path) -> None:
    for name, version in (("a", 1), ("a", 2), ("b", 1)):
        saved(tmp_path / name, version)
    async with living(model=str(tmp_path)) as life:
        await life.manager.ready()
        assert life.catalogue.available == {"a": (2,), "b": (1,)}
        saved(tmp_path / "b", 2)
        saved(tmp_path / "c", 1)
        await life.serves(a=[2], b=[2], c=[1])
        shutil.rmtree(tmp_path / "a")
        await life.serves(b=[2], c=[1])
        shutil.rmtree(tmp_path / "b")
        shutil.rmtree(tmp_path / "c")
        await life.serves()


async def test_a_broken_model_at_the_start_is_one_sentence_at_once(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1)
    saved(tmp_path / "b", 1, "broken")
    async with living(model=str(tmp_path)) as life:
        with pytest.raises(ModelProblem, match=r"^the model is broken$"):
            await life.manager.ready()
        assert life.loader.loaded.count(("b", 1)) == 1


async def test_nothing_at_the_path_is_one_sentence_at_once(tmp_path: Path) -> None:
    async with living(model=str(tmp_path / "missing")) as life:
        with pytest.raises(ModelProblem, match="there is nothing at"):
            await life.manager.ready()


async def test_a_model_that_gets_its_name_while_it_is_loaded_does_not_hold_up_the_start(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1)
    saved(tmp_path / "b.tmp", 1)
    async with living(model=str(tmp_path)) as life:
        let_go = life.loader.hold(1)
        ready = asyncio.create_task(life.manager.ready())
        await until(lambda: life.loader.waiting == 2)
        (tmp_path / "b.tmp").rename(tmp_path / "b")
        await until(lambda: life.stages("b"))
        assert not ready.done()
        let_go()
        async with asyncio.timeout(PATIENCE):
            await ready
        assert life.catalogue.available == {"a": (1,), "b": (1,)}


async def test_a_worker_whose_only_model_is_taken_away_while_it_is_loaded_waits_for_another(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1)
    async with living(model=str(tmp_path)) as life:
        let_go = life.loader.hold(1)
        ready = asyncio.create_task(life.manager.ready())
        await until(lambda: life.loader.waiting == 1)
        shutil.rmtree(tmp_path / "a")
        let_go()
        await until(lambda: life.stages("a") == {1: Stage.END})
        assert not ready.done()
        saved(tmp_path / "b", 2)
        async with asyncio.timeout(PATIENCE):
            await ready
        assert life.catalogue.available == {"b": (2,)}


async def test_a_model_that_nobody_could_name_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path / "a", 1)
    async with living(model=str(tmp_path)) as life:
        await life.manager.ready()
        saved(tmp_path / "b\n\u2028 c", 1)
        saved(tmp_path / "a", 2)
        await until(lambda: life.catalogue.available == {"a": (2,)})
    assert caplog.text.count("cannot name a model") == 1
    async with living(model=str(tmp_path)) as life:  # nor does it keep a worker from starting
        await life.manager.ready()
        assert life.catalogue.available == {"a": (2,)}
