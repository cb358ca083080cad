"""Two workers that serve different models, in the place of tensorflow_model_server, behind one proxy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.consul_agent import free_ports
from tests.end_to_end.programs import until
from tests.worker.programs import ModelServer
from tests.worker.serving_models import save_half_plus_three, save_half_plus_two


@dataclass(frozen=True)
class Pair:
    """The proxy's address, and where the models of the two workers lie."""

    url: str
    models: Path

    def listed(self) -> dict[str, list[int]]:
        """The versions of each model that the proxy knows of."""
        try:
            workers = httpx.get(f"{self.url}/workers").json()["workers"]
        except httpx.ConnectError:
            return {}
        return {model: numbers for worker in workers for model, numbers in worker["versions"].items()}

    def predict(self, model: str) -> Any:
        """What the model makes of 2, or the whole of an error."""
        answer = httpx.post(f"{self.url}/v1/models/{model}:predict", json={"instances": [2.0]}).json()
        return answer["predictions"][0] if "predictions" in answer else answer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    save_half_plus_two(folder / "half_plus_two" / "1")
    save_half_plus_three(folder / "half_plus_three" / "1")
    registry, proxy, grpc = free_ports(3)
    address = f"embedded://127.0.0.1:{registry}"
    programs = {
        "discovery": ["--host", "127.0.0.1", "--port", str(registry)],
        "proxy": ["--host", "127.0.0.1", "--port", str(proxy), "--grpc-port", str(grpc), "--registry", address],
    }
    with ExitStack() as life:
        for name, options in programs.items():
            program = life.enter_context(subprocess.Popen([sys.executable, "-m", name, *options]))
            life.callback(program.kill)
        workers = []
        for model in ("half_plus_two", "half_plus_three"):
            own = folder / f"worker-{model}"
            own.mkdir()
            flags = (f"--model_name={model}", f"--model_base_path={folder / model}", f"--registry={address}")
            workers.append(life.enter_context(ModelServer(own, *flags, "--advertise=127.0.0.1")))
        pair = Pair(f"http://127.0.0.1:{proxy}", folder)
        for worker in workers:
            worker.until("both are listed", lambda: len(pair.listed()) == 2)
        yield pair


def test_each_model_is_asked_of_the_worker_that_has_it(pair: Pair) -> None:
    for _ in range(5):
        assert pair.predict("half_plus_two") == 3.0
        assert pair.predict("half_plus_three") == 4.0
    assert pair.predict("half_plus_four")["models"] == ["half_plus_three", "half_plus_two"]


def test_a_version_that_is_published_reaches_the_proxy_without_a_failed_request(pair: Pair) -> None:
    beside = pair.models / "being-written"
    shutil.copytree(pair.models / "half_plus_three" / "1", beside)
    beside.rename(pair.models / "half_plus_two" / "2")
    answers = []

    def seen() -> bool:
        answers.append(pair.predict("half_plus_two"))
        return pair.listed()["half_plus_two"] == [2]

    until(seen, "the new version being announced and the old one no longer")
    assert set(answers) <= {3.0, 4.0}
    assert pair.predict("half_plus_two/versions/2") == 4.0
