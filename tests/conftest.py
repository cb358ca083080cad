"""What every test may ask for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

from tests.consul_agent import ConsulAgent

os.environ["PROXY_GRPC_PORT"] = "0"  # several proxies run at the same time
settings.register_profile("muster", deadline=None)  # how long an example takes says more about the machine
settings.load_profile("muster")


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


@pytest.fixture(scope="session")
def digits_model() -> Path:
    """A directory of models with the digits model and its samples. Read only: it is kept from one run to the next."""
    root = Path(__file__).parent.parent
    recipe = hashlib.sha256(version("keras").encode())
    for source in ("worker/digits.py", "worker/digits_network.py"):
        recipe.update((root / source).read_bytes())
    models = root / ".cache" / f"digits-{recipe.hexdigest()[:12]}"
    subprocess.run([sys.executable, "-m", "worker.digits", "--out", models], check=True, cwd=root)
    return models
