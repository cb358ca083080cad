"""One cluster of real programs for all tests of the whole way. Who takes a worker away brings another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consul_agent import ConsulAgent
from tests.end_to_end.programs import Cluster


@pytest.fixture(scope="package")
def consul() -> Iterator[ConsulAgent]:
    agent = ConsulAgent()
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture(scope="package")
def cluster(consul: ConsulAgent, digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(consul, digits_model, tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.add(3)
        yield cluster


@pytest.fixture
def seven(digits_model: Path) -> Path:
    return digits_model / "digits" / "samples" / "7.png"
