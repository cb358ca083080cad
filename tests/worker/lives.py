"""A manager at work, with a loader that the test holds in its hand. Without TensorFlow nothing takes long by itself."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.lifetime import Stop
from worker.messages.config import ModelServerConfig, parse_config
from worker.models.catalogue import Catalogue, Stage
from worker.models.finding import Found
from worker.models.manager import Manager, managing
from worker.models.servable import Array, ModelProblem, Servable
from worker.settings import WorkerSettings

PATIENCE = 30.0
LONG_AGO = time.time() - 3600


class Loader:
    """Loads what `publish` wrote; a version that is held stays at loading until it is let go."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, int]] = []
        self.closed: list[tuple[str, int]] = []
        self.waiting = 0
        self._held: dict[int, threading.Event] = {}

    def hold(self, version: int) -> Callable[[], None]:
        """Let the loading of this version take until the result is called."""
        self._held[version] = threading.Event()
        return self._held[version].set

    def __call__(self, found: Found, _computing: Callable[[], None]) -> Servable:
        held = self._held.get(found.version)
        if held is not None:
            self.waiting += 1
            assert held.wait(PATIENCE)
        self.loaded.append((found.name, found.version))
        try:
            words = (found.path / "model").read_text()
        except OSError as error:
            raise ModelProblem(f"there is no model in {found.path}") from error
        if words != "whole":
            raise ModelProblem(f"the model is {words}")

        def run(*_: Array) -> list[Array]:
            return []

        return Servable(
            found.name, found.version, {}, lambda _inputs, _outputs: run,
            lambda: self.closed.append((found.name, found.version)),
        )  # fmt: skip


@dataclass
class Life:
    """A manager, what it publishes, and what it loaded."""

    manager: Manager
    catalogue: Catalogue
    loader: Loader
    unloading: list[Servable] = field(default_factory=list)

    def stages(self, name: str = "m") -> dict[int, Stage]:
        return {status.version: status.stage for status in self.catalogue.statuses(name)}

    async def serves(self, **models: Sequence[int]) -> None:
        """Wait until exactly these versions are available."""
        await until(lambda: self.catalogue.available == {name: tuple(wanted) for name, wanted in models.items()})


async def until(condition: Callable[[], Any]) -> None:
    """Wait for the condition to hold."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def living(
    load: Callable[[Found, Callable[[], None]], Servable] | None = None,
    unloading: Callable[[Servable], Awaitable[None]] | None = None,
    **settings: Any,
) -> AsyncIterator[Life]:
    """A manager that has begun; it looks for versions as often as it can."""
    catalogue, loader, stop = Catalogue(), Loader(), Stop()
    told: list[Servable] = []

    async def forget(servable: Servable) -> None:
        told.append(servable)

    options = {"file_system_poll_wait_seconds": 0.02, "settle_time": 0.05, "load_retry_interval_micros": 10_000}
    async with managing(
        WorkerSettings(**{**options, **settings}), catalogue, unloading or forget, stop, load or loader
    ) as manager:
        yield Life(manager, catalogue, loader, told)
    assert not stop.requested


def publish(base: Path, version: int | str, words: str = "whole") -> Path:
    """A finished version, as by renaming a directory that was written long ago into place."""
    staged = base / f".{version}"
    staged.mkdir(parents=True)
    (staged / "model").write_text(words)
    os.utime(staged, (LONG_AGO, LONG_AGO))
    return staged.rename(base / str(version))


def config(*models: str) -> Any:
    """The ModelServerConfig that lists these models, each the inside of a `config { … }`."""
    listed = "".join(f'config {{ model_platform: "tensorflow" {model} }}' for model in models)
    return parse_config(f"model_config_list {{ {listed} }}".encode(), ModelServerConfig, "the test")


def entry(name: str, base: Path, more: str = "") -> str:
    """One model of `config`."""
    return f'name: "{name}" base_path: "{base}" {more}'
