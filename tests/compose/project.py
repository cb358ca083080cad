"""A cluster in containers, driven by the commands that its users type, under a project name and a port of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.consul_agent import free_ports

ROOT = Path(__file__).resolve().parents[2]
BUILD_PATIENCE = 900.0
"""Seconds for all images from nothing: TensorFlow comes over the network."""


def v1_or_v2() -> Sequence[str]:
    """What stands for `docker-compose` here. Skips the test without an engine; in CI it fails."""
    problem = engine_problem()
    if problem:
        skip_or_fail(problem)
    return ["docker-compose"] if shutil.which("docker-compose") else v2()


def v2() -> Sequence[str]:
    """The newer program, a part of `docker`. Skips the test without it; in CI it fails."""
    problem = engine_problem()
    if not problem and run(["docker", "compose", "version"], check=False).returncode:
        problem = "there is no `docker compose`"
    if problem:
        skip_or_fail(problem)
    return ["docker", "compose"]


def engine_problem() -> str:
    """Why no containers can be run here, or nothing."""
    if shutil.which("docker") is None:
        return "there is no `docker`"
    answer = run(["docker", "info", "--format", "{{.ServerVersion}}"], check=False)
    return f"no Docker engine answers: {answer.stdout.strip()}" if answer.returncode else ""


def skip_or_fail(reason: str) -> None:
    """Where these tests must run, that they cannot is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def run(
    command: Sequence[str], *, patience: float = 120.0, check: bool = True, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its two outputs as one. AssertionError, with the output, if it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env=environ, timeout=patience, text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout[-8000:]}")
    return done


def docker(*arguments: str) -> str:
    """What a docker command says."""
    return run(["docker", *arguments]).stdout.strip()


def until(what: str, condition: Callable[[], object], patience: float = 180.0) -> None:
    """Return when `condition` holds; AssertionError if that takes more than `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"after {patience:g} s still not so: {what}"
        time.sleep(0.1)


class Project:
    """One cluster. `command` is the docker-compose to use, `models` the directory that it serves."""

    def __init__(self, name: str, command: Sequence[str], models: Path) -> None:
        port, grpc_port = free_ports(2)
        self.name = name
        self.models = models
        self.url = f"http://127.0.0.1:{port}"
        self.grpc = f"127.0.0.1:{grpc_port}"
        self._command = command
        self._environ = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": name, "MUSTER_MODELS": str(models), "PROXY_P2P": "true",
            "MUSTER_PORT": str(port), "MUSTER_GRPC_PORT": str(grpc_port),
        }  # fmt: skip

    def compose(self, *arguments: str, patience: float = 120.0) -> str:
        """What `docker-compose` with these arguments says."""
        return run([*self._command, *arguments], patience=patience, environ=self._environ).stdout

    def scale(self, workers: int, patience: float = 180.0) -> None:
        """Bring the cluster up with so many workers, and wait until the proxy lists just these."""
        self.compose("up", "-d", "--scale", f"worker={workers}", patience=patience)
        self.until_listed(workers)

    def until_listed(self, workers: int) -> None:
        """Wait until the proxy lists so many workers, and all of them are fit."""
        until(f"{workers} workers are listed and fit", lambda: self._states() == ["ready"] * workers)

    def _states(self) -> list[str]:
        try:
            answer = httpx.get(f"{self.url}/workers", timeout=5)
        except httpx.TransportError:
            return []  # the proxy starts
        return [worker["state"] for worker in answer.json()["workers"]]

    def containers(self, service: str) -> list[str]:
        """The ids of a service's running containers."""
        return docker("ps", "--quiet", "--no-trunc", *self._ours(), "--filter",
                      f"label=com.docker.compose.service={service}").split()  # fmt: skip

    def remains(self) -> list[str]:
        """Every container, network and volume of this project."""
        ours = self._ours()
        return [
            *docker("ps", "--all", "--format", "{{.Names}}", *ours).split(),
            *docker("network", "ls", "--format", "{{.Name}}", *ours).split(),
            *docker("volume", "ls", "--format", "{{.Name}}", *ours).split(),
        ]

    def down(self) -> None:
        """End it, and remove all that it made in the engine except images."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "40")

    def logs(self) -> str:
        """What the containers and their health checks said last."""
        said = run([*self._command, "logs", "--no-color", "--tail", "60"], check=False, environ=self._environ).stdout
        return f"{run([*self._command, 'ps'], check=False, environ=self._environ).stdout}\n{said}"

    def _ours(self) -> list[str]:
        return ["--filter", f"label=com.docker.compose.project={self.name}"]


def inspect(*things: str) -> list[dict[str, Any]]:
    """All that the engine knows about each of some containers or images."""
    found: list[dict[str, Any]] = json.loads(docker("inspect", *things))
    return found
