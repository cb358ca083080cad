"""`python -m worker` as its users run it: a real process, from start to an orderly end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.serving_calls import AVAILABLE, statuses
from tests.worker import colours

PATIENCE = 60.0


class Process:
    """A worker of its own process, and its log."""

    def __init__(self, log: Path, *flags: str | Path, **environ: str) -> None:
        self._log = log
        command = [sys.executable, "-m", "worker", "--host", "127.0.0.1", "--registry", "static://", *map(str, flags)]
        with log.open("w") as file:
            self.popen = subprocess.Popen(command, stderr=file, env={**os.environ, **environ})

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        match: re.Match[str] = self.until(lambda: re.search(r"is ready at (\S+)", self.log))
        return match[1]

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for what `condition` returns to be true."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < deadline, self.log
            assert self.popen.poll() is None, self.log
            threading.Event().wait(0.01)
        return value

    def end(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(PATIENCE)


@pytest.fixture(scope="module")
def worker(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("worker") / "log", "--model", models / "string", "--max-body", "1MiB")
    yield process
    if process.popen.poll() is None:
        process.popen.kill()
    process.popen.wait()


def test_it_takes_a_free_port_and_answers_there(worker: Process) -> None:
    assert not worker.url.endswith(":0")
    answer = httpx.post(worker.url + "/classify", files={"data": colours.png("blue")})
    assert answer.json()["predictions"][0]["label"] == "blue"
    assert answer.headers["X-Served-By"] == httpx.get(worker.url + "/readyz").json()["worker"]["id"]
    assert re.match(r"worker-127\.0\.0\.1-\d+-[0-9a-f]+$", answer.headers["X-Served-By"])


def test_it_answers_over_grpc_at_the_port_that_it_tells(worker: Process) -> None:
    port = httpx.get(worker.url + "/readyz").json()["worker"]["grpc_port"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert [one.state for one in statuses(channel, "string")] == [AVAILABLE]


def test_curl_sends_files_as_the_readme_says(worker: Process, tmp_path: Path) -> None:
    image = tmp_path / "red.png"
    image.write_bytes(colours.png("red"))
    for flags in (["-F", f"data=@{image}"], ["--data-binary", f"@{image}"], ["-T", str(image), "-X", "POST"]):
        out = subprocess.run(
            ["curl", "-sS", worker.url + "/classify", *flags], capture_output=True, text=True, check=True
        )
        assert '"label":"red"' in out.stdout, out


def test_a_body_over_the_limit_is_refused_with_and_without_a_declared_length(worker: Process, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 5_000_000)
    for extra in ([], ["-H", "Transfer-Encoding: chunked"]):
        out = subprocess.run(
            ["curl", "-sS", "-w", " %{http_code} ", worker.url + "/classify", "-F", f"data=@{big}", *extra],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert '"code":"too_large"' in out.stdout
        assert " 413 " in out.stdout


def test_many_clients_at_once_all_get_their_own_answer(worker: Process) -> None:
    shown = ["red", "lime", "blue"] * 40

    def ask(colour: str) -> str:
        label: str = client.post("/classify", content=colours.png(colour)).json()["predictions"][0]["label"]
        return label.replace("green", "lime")

    with httpx.Client(base_url=worker.url, timeout=PATIENCE) as client, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, shown)) == shown


def test_it_takes_as_many_connections_as_the_system_lets_it() -> None:
    program = (
        "import resource, worker.__main__ as program\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))\n"
        "program.allow(program.MOST_CONNECTIONS)\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE), hard)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    soft, hard, hard_before = map(int, out.stdout.split())
    assert (soft, hard) == (65_536 if hard == -1 else min(hard, 65_536), hard_before)


def test_many_clients_that_only_hold_the_line_shut_nobody_out(worker: Process) -> None:
    port = int(worker.url.rpartition(":")[2])
    with ExitStack() as held:
        for _ in range(200):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert httpx.post(worker.url + "/classify", content=colours.png("blue"), timeout=5).status_code == 200


def test_nothing_of_tensorflow_is_in_its_log(worker: Process) -> None:
    assert worker.url
    for line in worker.log.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d .* INFO (worker|discovery|muster)\.", line)


def test_on_sigterm_it_says_so_serves_on_for_a_moment_and_ends_soon(worker: Process) -> None:
    url = worker.url
    with httpx.Client(base_url=url) as client:
        assert client.get("/readyz").status_code == 200
        began = time.monotonic()
        worker.popen.send_signal(signal.SIGTERM)
        worker.until(lambda: client.get("/readyz").json().get("code") == "draining")
        assert httpx.post(url + "/classify", content=colours.png("red")).status_code == 200
        assert worker.popen.wait(PATIENCE) == 0
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--model", "/does/not/exist"], 1, "there is nothing at /does/not/exist"),
        (["--model", __file__], 1, "is neither a .keras file"),
        (["--graph", __file__], 1, "is neither a .keras file"),
        (["--model", "x", "--graph", "y"], 2, "give one of them"),
        (["--max-body", "much"], 2, "--max-body"),
        (["--log-level", "loud"], 2, "loud"),
        (["--registry", "carrier-pigeon"], 1, "carrier-pigeon"),
        (["--port", "99999"], 2, "--port"),
        (["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1 port 0"),
        (["--advertise", "a b"], 1, "--advertise"),
    ],
)
def test_a_mistake_in_its_settings_is_one_sentence(
    tmp_path: Path, flags: list[str], status: int, sentence: str
) -> None:
    process = Process(tmp_path / "log", *flags)
    assert process.popen.wait(PATIENCE) == status
    assert sentence in process.log
    assert "Traceback" not in process.log


def test_it_is_alive_while_it_loads_and_ends_at_once_if_it_must(models: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = Process(tmp_path / "log", WORKER_MODEL=str(models), WORKER_PORT=str(port))

    def loading() -> bool:
        try:
            return bool(httpx.get(f"http://127.0.0.1:{port}/readyz").json().get("code") == "loading")
        except httpx.TransportError:
            return False

    process.until(loading)
    began = time.monotonic()
    assert process.end() == 0
    assert time.monotonic() - began < 5
    assert "is ready" not in process.log


def test_that_there_is_no_model_is_known_before_tensorflow_is_loaded(tmp_path: Path) -> None:
    process = Process(tmp_path / "log", "--model", tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert process.popen.wait(PATIENCE) == 1
    assert "there is no model in" in process.log
    assert "tensorflow" not in process.log  # that variable makes Python list every import there
