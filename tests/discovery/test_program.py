"""`python -m discovery` as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from discovery.addresses import open_registry
from muster.lifetime import Stop
from tests.consul_agent import PROJECT, free_ports
from tests.discovery.harness import watching

Program = subprocess.Popen[str]


def start(*arguments: str) -> Program:
    return subprocess.Popen(
        [sys.executable, "-m", "discovery", *arguments], cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def program() -> Iterator[tuple[Program, int]]:
    """The program and its port, once it says that it serves."""
    (port,) = free_ports(1)
    process = start("--port", str(port))
    assert process.stderr is not None
    assert f"127.0.0.1:{port}" in process.stderr.readline()
    yield process, port
    process.kill()
    process.wait()
    process.stderr.close()


async def test_it_serves_until_it_is_told_to_end_and_then_ends_in_order(program: tuple[Program, int]) -> None:
    process, port = program
    async with open_registry(f"embedded://127.0.0.1:{port}", {}, Stop()) as registry, watching(registry) as eyes:
        await eyes.see()
        process.send_signal(signal.SIGTERM)  # with a poll being held
        assert process.wait(5) == 0


def test_a_port_that_is_taken_is_one_sentence(program: tuple[Program, int]) -> None:
    second = start("--port", str(program[1]))
    _, said = second.communicate(timeout=10)
    assert second.returncode == 1
    assert "cannot listen on 127.0.0.1" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [("--port", "99999"), ("--log-level", "loud"), ("--nonsense",)])
def test_a_setting_that_makes_no_sense_is_one_sentence(arguments: tuple[str, ...]) -> None:
    process = start(*arguments)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 2
    assert arguments[0] in said.splitlines()[-1]
