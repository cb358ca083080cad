"""TensorFlow Serving's clients, unchanged, against a worker in its place and against a proxy in front of one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.consul_agent import free_ports
from tests.end_to_end.programs import until
from tests.serving_api import with_serving_api
from tests.worker.programs import ModelServer
from tests.worker.serving_models import save_half_plus_two

CLIENTS = Path(__file__).parent.parent / "clients"
OVER_REST = """\
rows [2.5, 3.0, 4.5]
columns [[2.5], [3.0]]
regress [3.0]
signature DT_FLOAT
unknown 404
"""
OVER_GRPC = """\
status 123 AVAILABLE
predict [[3.0]] 123
futures 50
regress [3.0]
unknown NOT_FOUND True
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A worker started as tensorflow_model_server is."""
    directory = tmp_path_factory.mktemp("worker")
    save_half_plus_two(directory / "half_plus_two" / "00000123")
    flags = ("--model_name=half_plus_two", f"--model_base_path={directory}/half_plus_two")
    with ModelServer(directory, *flags) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def proxy(worker: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """The ports for REST and gRPC of a proxy that knows the worker."""
    rest, grpc = free_ports(2)
    command = [sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(rest), "--grpc-port", str(grpc)]
    command += ["--registry", f"static://127.0.0.1:{worker.rest}"]
    log = tmp_path_factory.mktemp("proxy") / "log"
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            until(lambda: process.poll() is None and _ready(rest), f"a proxy with a worker ({log})")
            yield rest, grpc
        finally:
            process.kill()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
    except httpx.TransportError:
        return False


def said(client: str, *servers: str) -> str:
    """What the client prints of each server."""
    run = subprocess.run(
        [sys.executable, CLIENTS / client, *servers],
        env=with_serving_api(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_rest_client_is_answered_by_the_worker_and_through_the_proxy(
    worker: ModelServer, proxy: tuple[int, int]
) -> None:
    servers = [f"http://localhost:{port}" for port in (worker.rest, proxy[0])]
    assert said("rest_client.py", *servers) == OVER_REST * 2


def test_a_grpc_client_is_answered_by_the_worker_and_through_the_proxy(
    worker: ModelServer, proxy: tuple[int, int]
) -> None:
    servers = [f"localhost:{port}" for port in (worker.grpc, proxy[1])]
    assert said("grpc_client.py", *servers) == OVER_GRPC * 2
