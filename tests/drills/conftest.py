"""What every drill may ask for, and the figures at the end of the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.consul_agent import ConsulAgent
from tests.drills.cluster import Cluster, Program, until
from tests.drills.machine import Machine

Figure = Callable[[str], None]

_figures: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("drill")


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Say what was measured."""

    def say(sentence: str) -> None:
        number, words = request.node.path.stem.split("_")[1], request.node.name[5:].replace("_", " ")
        _figures.append(f"| {number.lstrip('0')} {words} | {sentence} |")
        print(sentence)

    return say


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """It is long work: say which drill it is at, and how long it took."""
    say = item.config.get_terminal_writer().line if item.path.parent == Path(__file__).parent else lambda _: None
    begin = time.monotonic()
    place = f"{item.session.items.index(item) + 1} of {len(item.session.items)}"
    say(f"\n{time.strftime('%H:%M:%S')}  {place}, {item.path.stem[5:]}: {item.name}")
    try:
        return (yield)
    finally:
        say(f"  {time.monotonic() - begin:.0f} s")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A table as docs/operations.md has it, to be pasted there."""
    if _figures:
        terminalreporter.section("figures of the drills")
        terminalreporter.write_line("| drill | measured |\n|---|---|")
        for line in _figures:
            terminalreporter.write_line(line)


@pytest.fixture(scope="package")
def drill_consul() -> Iterator[ConsulAgent]:
    """An agent for drills that leave it alone."""
    agent = ConsulAgent()
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture(scope="package")
def meter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One for all drills."""
    folder = tmp_path_factory.mktemp("machine")
    file = folder / "waits"
    program = Program(folder, "meter", "tests.drills.machine", "--of", str(os.getpid()), "--out", str(file))
    until(file.exists, "the meter runs", 10)
    machine = Machine(file)
    yield machine
    machine.close()
    program.close()


@pytest.fixture
def machine(meter: Machine) -> Machine:
    """For drills that assert times."""
    meter.note = ""
    return meter


@pytest.fixture
def cluster(drill_consul: ConsulAgent, tmp_path: Path) -> Iterator[Cluster]:
    """No proxy and no worker yet."""
    with Cluster(drill_consul, tmp_path) as cluster:
        yield cluster


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    """A proxy as it comes, and three workers."""
    cluster.proxy()
    for _ in range(3):
        cluster.worker()
    return cluster
