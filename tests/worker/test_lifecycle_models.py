"""Real models are replaced while they are used: nobody gets a wrong answer or none, and memory is given back."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from muster.lifetime import Stop
from tests.worker import serving_models
from tests.worker.lives import until
from worker.inference import Inference
from worker.models.catalogue import Catalogue, Stage
from worker.models.manager import Manager, managing
from worker.models.tensorflow_quietly import tf
from worker.settings import WorkerSettings
from worker.status import StatusError

v1 = tf.compat.v1


class Serving:
    """A manager with TensorFlow behind it, and the way of a request through the worker."""

    def __init__(self, manager: Manager, catalogue: Catalogue, inference: Inference) -> None:
        self.manager = manager
        self.catalogue = catalogue
        self._inference = inference

    async def ask(self, x: float) -> tuple[int, float]:
        """The version that answered, and its y."""
        with self.catalogue.use("m") as servable:
            signature = servable.signatures["serving_default"]
            ran = await self._inference.run(
                servable, [signature.inputs["x"]], [np.array([[x]], np.float32)], [signature.outputs["y"]]
            )
            return servable.version, float(ran.result[0].ravel()[0])


@asynccontextmanager
async def serving(base: Path, **changes: Any) -> AsyncIterator[Serving]:
    settings = WorkerSettings(
        model_name="m", model_base_path=str(base), file_system_poll_wait_seconds=0.02, settle_time=0.05, **changes
    )
    catalogue, inference, stop = Catalogue(), Inference(settings), Stop()
    try:
        async with managing(settings, catalogue, inference.forget, stop) as manager:
            yield Serving(manager, catalogue, inference)
    finally:
        inference.close()
    assert not stop.requested


def put(made: Path, base: Path, version: int) -> Path:
    """A copy of the finished model, renamed into place."""
    staged = base / f".{version}"
    shutil.copytree(made, staged)
    return staged.rename(base / str(version))


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """x / 2 + 2, and x / 2 + 3."""
    root = tmp_path_factory.mktemp("halves")
    return serving_models.save_half_plus_two(root / "two"), serving_models.save_half_plus_three(root / "three")


async def test_under_load_no_request_fails_or_meets_the_wrong_version_while_versions_are_replaced(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    put(halves[1], tmp_path, 1)
    async with serving(tmp_path) as life:
        await life.manager.ready()
        answered: dict[int, int] = {}
        stop = False

        async def client(x: float) -> None:
            while not stop:
                version, y = await life.ask(x)
                assert y == x / 2 + 2 + version % 2
                answered[version] = answered.get(version, 0) + 1

        clients = [asyncio.create_task(client(x)) for x in range(6)]
        for version in range(2, 7):
            put(halves[version % 2], tmp_path, version)
            await until(lambda wanted=version: wanted in answered)
        stop = True
        await asyncio.gather(*clients)
        assert life.catalogue.available == {"m": (6,)}
        assert set(answered) == {1, 2, 3, 4, 5, 6}


async def test_a_damaged_new_version_leaves_the_old_one_serving_and_is_served_when_it_is_mended(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    put(halves[0], tmp_path, 1)
    async with serving(tmp_path, max_num_load_retries=0) as life:
        await life.manager.ready()
        broken = tmp_path / ".2"
        shutil.copytree(halves[1], broken)
        (broken / "saved_model.pb").write_bytes(b"not a model\xff")
        broken = shutil.move(broken, tmp_path / "2")
        await until(lambda: [status.stage for status in life.catalogue.statuses("m")] == [Stage.END, Stage.AVAILABLE])
        assert "damaged" in life.catalogue.statuses("m")[0].message
        assert await life.ask(2) == (1, 3.0)
        shutil.copy(halves[1] / "saved_model.pb", broken)
        await until(lambda: life.catalogue.available == {"m": (2,)})
        assert await life.ask(2) == (2, 4.0)


async def test_a_start_with_a_directory_that_holds_no_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    async with serving(tmp_path, max_num_load_retries=0) as life:
        with pytest.raises(StatusError, match=r"\{\{name: m version: 1\} due to error: .*no model in"):
            await life.manager.ready()


def heavy() -> dict[str, Any]:
    weights = v1.get_variable("w", initializer=np.ones((1000, 1000), np.float32))
    x = v1.placeholder(tf.float32, [None, 1], name="x")
    return {"serving_default": serving_models.definition({"x": x}, {"y": x * tf.reduce_mean(weights)})}


async def replaced(directory: Path) -> list[int]:
    """The bytes that this process holds after each of many replacements."""
    made = serving_models.save(directory / "made", heavy)
    base = directory / "m"
    base.mkdir()
    put(made, base, 1)
    resident: list[int] = []
    async with serving(base) as life:
        await life.manager.ready()
        for version in range(2, 26):
            put(made, base, version)
            shutil.rmtree(base / str(version - 1))
            await until(lambda wanted=version: life.catalogue.available == {"m": (wanted,)})
            assert await life.ask(3) == (version, 3.0)
            await until(
                lambda wanted=version: all(
                    status.stage is Stage.END for status in life.catalogue.statuses("m") if status.version != wanted
                )
            )
            resident.append(psutil.Process().memory_info().rss)
    return resident


def replaced_here(directory: Path) -> list[int]:
    return asyncio.run(replaced(directory))


def test_twenty_replacements_leave_no_memory_behind(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # what other tests leave behind is no part of this
        resident = fresh.submit(replaced_here, tmp_path).result()
    assert resident[-1] - resident[3] < 16 * 2**20, "one model's weights are 4 MB, twenty models' 80"
