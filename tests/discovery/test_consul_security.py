"""Consul agents that do not trust everybody: tokens, TLS, Unix sockets. All real."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.addresses import open_registry
from muster.lifetime import Stop
from muster.values import Worker
from tests.consul_agent import ConsulAgent, find_consul, free_ports
from tests.discovery.harness import eventually, watching

MASTER = "00000000-0000-0000-0000-00000000000a"
RULES = """
service "worker" { policy = "write" }
node_prefix "" { policy = "read" }
"""
Make = Callable[[str], Worker]


@pytest.fixture(scope="module")
def guarded() -> Iterator[ConsulAgent]:
    """An agent that denies everything by default."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": MASTER, "agent": MASTER}}
    agent = ConsulAgent({"acl": acl}, token=MASTER)
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture(scope="module")
def token(guarded: ConsulAgent) -> str:
    """A token with the rights that the documentation asks for, and no others."""
    guarded.call("PUT", "/v1/acl/policy", {"Name": "muster", "Rules": RULES})
    made = guarded.call("PUT", "/v1/acl/token", {"Policies": [{"Name": "muster"}]})
    return str(made["SecretID"])


async def test_a_token_with_just_the_documented_rights_is_enough(
    guarded: ConsulAgent, token: str, worker: Make, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(token)
    environ = {"CONSUL_HTTP_ADDR": guarded.address, "CONSUL_HTTP_TOKEN_FILE": str(tmp_path / "token")}
    ann = worker("ann")
    async with open_registry("consul", environ, Stop()) as registry, watching(registry) as eyes:
        await eyes.see()
        async with registry.announce(ann) as listing:
            await eyes.see(ann.id)
            guarded.call("PUT", f"/v1/agent/service/deregister/{ann.id}")
            await eyes.see()
            await eyes.see(ann.id)  # where there are ACLs, agents have other words for what they forgot
            await listing.withdraw("draining")
            await eyes.see()


@pytest.mark.parametrize("wrong", ["", "11111111-1111-1111-1111-111111111111"], ids=["no token", "wrong token"])
async def test_a_worker_without_the_right_token_says_so_once_and_serves_on(
    guarded: ConsulAgent, wrong: str, worker: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # py-consul would take this one, from behind our back
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", MASTER)
    environ = {"CONSUL_HTTP_ADDR": guarded.address, "CONSUL_HTTP_TOKEN": wrong}
    async with open_registry("consul", environ, Stop()) as registry, registry.announce(worker("ann")):
        (complaint,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "does not permit to list this worker" in complaint.message
    assert "CONSUL_HTTP_TOKEN" in complaint.message
    assert "11111111" not in caplog.text
    assert complaint.exc_info is None


async def test_a_watcher_with_a_wrong_token_says_so(guarded: ConsulAgent, caplog: pytest.LogCaptureFixture) -> None:
    environ = {"CONSUL_HTTP_ADDR": guarded.address, "CONSUL_HTTP_TOKEN": "11111111-1111-1111-1111-111111111111"}
    async with open_registry("consul", environ, Stop()) as registry, watching(registry) as eyes:

        async def said() -> bool:
            return "does not permit to watch 'worker'" in caplog.text

        await eventually(said)
        assert eyes.snapshots == []


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a new authority and certificates, made by consul itself."""
    directory = tmp_path_factory.mktemp("certificates")
    for what in (["ca", "create"], ["cert", "create", "-server"], ["cert", "create", "-client"]):
        subprocess.run([find_consul(), "tls", *what], cwd=directory, check=True, capture_output=True, timeout=60)
    return directory


async def test_an_agent_that_wants_certificates_and_has_another_name_than_its_address(
    certificates: Path, worker: Make, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    agent = ConsulAgent(
        {
            "ports": {"https": port},
            "ca_file": str(certificates / "consul-agent-ca.pem"),
            "cert_file": str(certificates / "dc1-server-consul-0.pem"),
            "key_file": str(certificates / "dc1-server-consul-0-key.pem"),
            "verify_incoming_https": True,
        }
    )
    agent.start()
    try:
        environ = {
            "CONSUL_HTTP_ADDR": f"https://127.0.0.1:{port}",
            "CONSUL_CACERT": str(certificates / "consul-agent-ca.pem"),
            "CONSUL_CLIENT_CERT": str(certificates / "dc1-client-consul-0.pem"),
            "CONSUL_CLIENT_KEY": str(certificates / "dc1-client-consul-0-key.pem"),
            "CONSUL_TLS_SERVER_NAME": "server.dc1.consul",
        }
        ann = worker("ann")
        async with (
            open_registry("consul", environ, Stop()) as registry,
            registry.announce(ann),
            watching(registry) as eyes,
        ):
            await eyes.see(ann.id)
        environ |= {"CONSUL_TLS_SERVER_NAME": "somebody.else"}
        async with open_registry("consul", environ, Stop()) as registry, registry.announce(ann):
            assert "its certificate is not accepted" in caplog.text
    finally:
        agent.stop()


async def test_an_agent_behind_a_unix_socket(tmp_path: Path, worker: Make) -> None:
    path = tmp_path / "consul.sock"
    agent = ConsulAgent({"addresses": {"http": f"127.0.0.1 unix://{path}"}})
    agent.start()
    try:
        ann = worker("ann")
        environ = {"CONSUL_HTTP_ADDR": f"unix://{path}"}
        async with (
            open_registry("consul", environ, Stop()) as registry,
            registry.announce(ann),
            watching(registry) as eyes,
        ):
            await eyes.see(ann.id)
    finally:
        agent.stop()
