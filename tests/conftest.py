"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.consul_agent import ConsulAgent


@pytest.fixture
def consul_agent() -> Iterator[ConsulAgent]:
    """A Consul agent of the test's own, running; the test may stop and start it."""
    agent = ConsulAgent()
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture(scope="session")
def shared_consul() -> Iterator[ConsulAgent]:
    """One Consul agent for all tests that leave it running and take a service name of their own."""
    agent = ConsulAgent()
    agent.start()
    yield agent
    agent.stop()
