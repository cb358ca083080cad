"""`muster up`: real processes that come, are killed, come back, and are gone in the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from packaging.requirements import Requirement

from muster.answers import Listed
from muster.child import Backoff
from muster.client import Client
from muster.errors import ClusterError
from muster.guide import guide
from tests.muster.up import ROOT, Up, command_of, until

UP = "The cluster is up."


@pytest.fixture(scope="module")
def home(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ./models, and with folders named like our packages, which must not be taken for them."""
    directory = tmp_path_factory.mktemp("home")
    (directory / "models").symlink_to(digits_model)
    for name in ("worker", "proxy", "discovery", "muster"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text("raise SystemExit('this is not it')")
    return directory


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Up]:
    """A cluster of two workers that is up; a test may kill what it brings back by itself."""
    with Up(home, "--workers", 2) as up:
        up.says(UP)
        yield up


@pytest.fixture
def sample(digits_model: Path) -> Path:
    return digits_model / "digits" / "samples" / "7.png"


def test_it_serves_through_the_proxy_and_directly(cluster: Up, sample: Path) -> None:
    for way in ([], ["--p2p"]):
        command = [sys.executable, "-m", "muster", "classify", str(sample), "--json", "--proxy", cluster.url, *way]
        asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(asked.stdout)["predictions"][0]["label"] == "7"
    with Client(cluster.url) as client:
        served = {client.classify(sample).served_by for _ in range(4)}
    assert len(served) == 2


def test_it_takes_grpc_where_it_says(cluster: Up) -> None:
    (line,) = [line for line in cluster.lines if "gRPC" in line]
    health = "/grpc.health.v1.Health/Check"
    with grpc.insecure_channel(line.split()[1]) as channel:
        assert channel.unary_unary(health)(b"", timeout=10) == b"\x08\x01"


def test_it_says_what_to_try_with_files_that_are_there(cluster: Up, home: Path) -> None:
    (command,) = [line for line in cluster.lines if "p2p/classify" in line]
    assert f"localhost:{cluster.port}/p2p/classify" in command
    assert (home / command.partition("data=@")[2].split()[0]).stat().st_size > 1_500_000


@pytest.mark.parametrize("module", ["worker", "proxy", "discovery"])
def test_what_is_killed_is_started_again_and_the_cluster_is_whole(cluster: Up, sample: Path, module: str) -> None:
    killed = cluster.child(module)
    heard = len(cluster.lines)
    killed.kill()
    until(lambda: any("was killed by SIGKILL; it is started again" in line for line in cluster.lines[heard:]), "word")
    until(lambda: len(cluster.children()) == 4 and whole(cluster), "two workers that answer")
    assert killed not in cluster.children()
    until(lambda: any("serves again at" in line for line in cluster.lines[heard:]), "word of its return")
    (back,) = [line for line in cluster.lines[heard:] if "serves again at" in line]
    name, _, place = back.partition(" serves again at ")
    assert name.startswith("registry" if module == "discovery" else module)
    if module == "worker":
        with Client(cluster.url) as client:
            assert place in {f"http://{worker.address}" for worker in client.workers()}
    with Client(cluster.url) as client:
        assert client.classify(sample).best.label == "7"


def whole(cluster: Up) -> bool:
    """Are two workers listed, and do both answer? One that was killed stays listed until its time is up."""
    try:
        with Client(cluster.url, attempts=1) as client:
            listed = client.workers()
        ready = [httpx.get(f"http://{worker.address}/readyz").is_success for worker in listed]
    except (ClusterError, httpx.TransportError):
        return False
    return ready == [True, True]


def test_while_a_worker_is_away_every_request_is_answered(cluster: Up, sample: Path) -> None:
    until(lambda: whole(cluster), "two workers that answer")
    cluster.child("worker").kill()
    with Client(cluster.url) as client:
        labels = [client.classify(sample).best.label for _ in range(20)]
    assert labels == ["7"] * 20


def test_a_signal_ends_everything_in_order(home: Path) -> None:
    with Up(home, "--workers", 1, "--verbose") as up:
        up.says(UP)
        up.signal(signal.SIGTERM)
        assert up.ends() == 0
        assert up.children() == []
        assert up.lines[-1] == "Everything has ended."
        stopping = [line.split()[0] for line in up.lines if "stopping: SIGTERM" in line]
        assert stopping == ["worker-1", "proxy", "registry"]


def test_a_signal_during_the_start_ends_everything_too(home: Path) -> None:
    with Up(home, "--workers", 1) as up:
        until(lambda: any("worker" in command_of(child) for child in up.children()), "the worker's process")
        up.signal(signal.SIGINT)
        assert up.ends() == 0
        assert up.children() == []
        assert up.lines[-1] == "Ending before the cluster was up."


def test_a_signal_while_the_model_is_made_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        up.says("Making a model")
        up.signal(signal.SIGINT)
        assert up.ends() == 0
        assert up.children() == []
        assert up.lines[1:] == ["Ending before the cluster was up."]
    assert list(tmp_path.iterdir()) == []


def test_when_it_is_killed_its_children_end_by_themselves(home: Path) -> None:
    with Up(home, "--workers", 1) as up:
        up.says(UP)
        up.signal(signal.SIGKILL)
        assert up.ends() == -signal.SIGKILL
        until(lambda: up.children() == [], "an end of all children")


def test_a_second_ctrl_c_does_not_wait(home: Path) -> None:
    with Up(home, "--workers", 1) as up:
        up.says(UP)
        worker = up.child("worker")
        worker.send_signal(signal.SIGSTOP)  # so it never ends by itself
        up.signal(signal.SIGINT)
        up.says("Ending")

        def gone() -> bool:
            up.signal(signal.SIGINT)
            return not psutil.pid_exists(worker.pid)

        until(gone, "an end of the worker")
        assert up.ends() == 0
        assert up.children() == []


def test_a_port_that_is_taken_is_one_sentence(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Up(home, "--port", port) as up:
            assert up.ends() == 1
            assert up.lines == [f"muster: cannot listen on 127.0.0.1 port {port}: address already in use"]


def test_a_model_that_is_not_there_is_one_sentence(home: Path) -> None:
    with Up(home, "--model", "nowhere") as up:
        assert up.ends() == 1
        assert up.lines == ["muster: there is no model at nowhere"]


def test_a_worker_that_can_never_start_ends_it_with_its_own_sentence(home: Path) -> None:
    (home / "empty").mkdir()
    with Up(home, "--workers", 1, "--model", "empty") as up:
        assert up.ends() == 1
        assert up.children() == []
        assert up.lines[-1].startswith("muster: worker-1 cannot start: ")
        assert "empty" in up.lines[-1]


def test_without_its_extras_the_package_says_which_to_install(tmp_path: Path) -> None:
    """Python sees the standard library, our own source, and what the bare package depends on; nothing else."""
    for name in _needed_by(["httpx", "rich", "typer"]):
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top != ".." and not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    bare = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    for arguments, status, sentence in (
        (["up"], 1, "muster: the servers are not installed here; pip install 'muster[proxy,digits]' brings them\n"),
        (["workers", "--proxy", "no-such-host.invalid"], 1, "muster: nothing answers at http://no-such-host.invalid\n"),
    ):
        command = [sys.executable, "-S", "-P", "-m", "muster", *arguments]
        run = subprocess.run(command, env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert (run.returncode, run.stderr) == (status, sentence)


def _needed_by(names: list[str]) -> set[str]:
    needed: set[str] = set()
    while names:
        name = names.pop()
        if name not in needed:
            needed.add(name)
            required = map(Requirement, distribution(name).requires or [])
            names += [each.name for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]
    return needed


def test_pauses_double_up_to_a_limit_and_start_over_after_a_long_life() -> None:
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff.after(10.0) == 0.2
    assert backoff.after(0.1) == 0.4


def test_without_samples_the_guide_leaves_room_for_the_users_own(tmp_path: Path) -> None:
    text = guide(
        "0.0.0.0", 12480, 12482, "embedded://127.0.0.1:1", [Listed("ann", "10.0.0.1:1", ("net",), "ready")], tmp_path
    )
    assert "curl localhost:12480/classify -F data=@IMAGE" in text
    assert "curl localhost:12480/v1/models/net/metadata" in text
    assert "gRPC      localhost:12482" in text
    assert "--proxy" not in text


def test_among_several_models_the_guide_names_one_as_a_shell_takes_it(tmp_path: Path) -> None:
    text = guide(
        "", 12480, 12482, "embedded://127.0.0.1:1", [Listed("ann", "10.0.0.1:1", ("cats", "dogs"), "ready")], tmp_path
    )
    assert 'curl "localhost:12480/classify?model=cats" -F data=@IMAGE' in text
    assert 'curl "$(curl -s localhost:12480)/classify?model=cats" -F data=@IMAGE' in text
    assert 'curl -L "localhost:12480/p2p/classify?model=cats" -F data=@LARGE_IMAGE' in text
    assert "classify IMAGE --model cats" in text
    assert "curl localhost:12480/v1/models/cats/metadata" in text
