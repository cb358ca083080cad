"""12. A proxy is ready once it knows the workers, and not before."""

from __future__ import annotations

import time

import pytest

from tests.drills.cluster import Cluster, ask, form, until
from tests.drills.conftest import Figure
from tests.drills.passage import Passage


def _readiness(cluster: Cluster) -> int:
    """Status of `/readyz`, 0 if the port is closed."""
    try:
        return ask(cluster.port, "GET", "/readyz")[0]
    except OSError:
        return 0


def _begin(cluster: Cluster, passage: Passage, processes: int) -> None:
    """Workers that the registry knows, and a proxy that cannot hear it yet."""
    for _ in range(3):
        cluster.worker()
    cluster.registry = f"consul://{passage.address}"
    proxy = cluster.proxy("--processes", str(processes), answers=False)
    until(lambda: proxy.log.count("waiting for the registry's first word") == processes, "it waits")


@pytest.mark.parametrize("processes", [1, 2])
def test_the_port_opens_with_the_first_word_of_the_registry(cluster: Cluster, figure: Figure, processes: int) -> None:
    with Passage(cluster.consul.address, shut=True) as passage:
        _begin(cluster, passage, processes)
        before = set()
        silent = time.monotonic() + form(3, 2)
        while time.monotonic() < silent:
            before.add(_readiness(cluster))
        passage.open()
        opened = time.monotonic()
        first = until(lambda: _readiness(cluster), "the port opens", 5)
        took = time.monotonic() - opened
        served = cluster.load(1).wait()
    figure(
        f"{processes} processes: port closed for the {form(3, 2)} s in which the registry was silent, ready "
        f"{took * 1000:.0f} ms after its first word; {len(served)} requests then, {len(served.failures)} failed"
    )
    assert before == {0}
    assert first == 200
    assert took <= 1
    served.without_failures()


def test_without_a_word_for_long_the_port_opens_and_says_that_it_is_not_ready(cluster: Cluster, figure: Figure) -> None:
    with Passage(cluster.consul.address, shut=True) as passage:
        _begin(cluster, passage, 1)
        begin = time.monotonic()
        first = until(lambda: _readiness(cluster), "the port opens", 10)
        silent = time.monotonic() - begin
        passage.open()
        opened = time.monotonic()
        until(lambda: _readiness(cluster) == 200, "it is ready", 10)
        took = time.monotonic() - opened
    figure(f"a registry silent for {silent:.1f} s: /readyz {first}; ready {took * 1000:.0f} ms after its first word")
    assert first == 503
    assert took <= 2
