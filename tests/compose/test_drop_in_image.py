"""The worker's image in the place of TensorFlow Serving's: the same command, but for the name of the image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from tests.compose.project import docker, inspect, until
from tests.consul_agent import free_ports
from tests.serving_calls import predict
from tests.worker.serving_models import save_half_plus_two

pytestmark = pytest.mark.compose


@pytest.fixture(scope="module")
def half_plus_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "half_plus_two"
    save_half_plus_two(directory / "00000123")
    directory.parent.chmod(0o755)  # the worker in its container is somebody else
    return directory


@contextmanager
def container(*arguments: str) -> Iterator[str]:
    """The id of a container that runs as long as the block, with ports of its own."""
    number = docker("run", "--detach", "--init", "--read-only", "--tmpfs", "/tmp", *arguments)
    try:
        yield number
    except BaseException:
        print(docker("logs", number))
        raise
    finally:
        docker("rm", "--force", "--volumes", number)


def health(number: str) -> str:
    """What the engine thinks of the container."""
    status: str = inspect(number)[0]["State"]["Health"]["Status"]
    return status


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).is_success
    return False


def test_it_serves_a_model_in_a_volume_by_name(images: None, half_plus_two: Path) -> None:
    grpc_port, rest_port = free_ports(2)
    ports = ["-p", f"127.0.0.1:{grpc_port}:8500", "-p", f"127.0.0.1:{rest_port}:8501"]
    volume = ["-v", f"{half_plus_two}:/models/half_plus_two:ro", "-e", "MODEL_NAME=half_plus_two"]
    with container(*ports, *volume, "muster-worker", "--enable_batching") as number:
        model = f"http://127.0.0.1:{rest_port}/v1/models/half_plus_two"
        until("it serves the model", lambda: answers(model))
        assert httpx.post(f"{model}:predict", content='{"instances": [1.0, 2.0, 5.0]}').json() == {
            "predictions": [2.5, 3.0, 4.5]
        }
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            assert predict(channel, "half_plus_two", 2.0) == [3.0]
        until("it is healthy", lambda: health(number) == "healthy")
        docker("stop", "--time", "10", number)
        assert inspect(number)[0]["State"]["ExitCode"] == 0


def test_without_http_it_is_healthy_when_grpc_answers(images: None, half_plus_two: Path) -> None:
    volume = ["-v", f"{half_plus_two.parent}:/srv:ro", "-e", "MODEL_BASE_PATH=/srv", "-e", "MODEL_NAME=half_plus_two"]
    with container(*volume, "muster-worker", "--rest_api_port=0") as number:
        until("it is healthy", lambda: health(number) == "healthy")
