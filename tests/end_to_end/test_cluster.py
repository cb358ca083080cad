"""The whole way: a real image, TensorFlow workers, a Consul agent, the proxy between, and things that go wrong."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from pathlib import Path

import httpx

from tests.compose.traffic import Traffic
from tests.consul_agent import ConsulAgent
from tests.end_to_end.programs import Cluster, until


def curl(*words: str) -> str:
    return subprocess.run(
        ["curl", "-sS", "--max-time", "30", *words], check=True, capture_output=True, text=True
    ).stdout


def digit(answer: str) -> str:
    parsed = httpx.Response(200, text=answer).json()
    assert parsed["model"] == {"name": "digits", "version": 1}
    return str(parsed["predictions"][0]["label"])


def test_a_digit_is_read_through_the_proxy_at_a_worker_and_by_redirect(cluster: Cluster, digits_model: Path) -> None:
    samples = digits_model / "digits" / "samples"
    for number in range(10):
        image = f"data=@{samples / f'{number}.png'}"
        assert digit(curl(f"{cluster.url}/classify", "-F", image)) == str(number)
        assert digit(curl(f"{curl(cluster.url).strip()}/classify", "-F", image)) == str(number)
        assert digit(curl("-L", f"{cluster.url}/p2p/classify", "-F", image)) == str(number)
    assert digit(curl("-L", f"{cluster.url}/p2p/classify", "-F", f"data=@{samples / 'big.jpg'}")).isdigit()


def test_every_way_to_send_an_image_gives_the_same_answer_through_the_proxy(cluster: Cluster, seven: Path) -> None:
    url = f"{cluster.url}/classify"
    assert digit(curl(url, "-F", f"data=@{seven}")) == "7"
    assert digit(curl(url, "-F", f"anything=@{seven}")) == "7"
    assert digit(curl(url, "--data-binary", f"@{seven}")) == "7"
    assert digit(curl(url, "--data-binary", f"@{seven}", "-H", "Content-Type: image/png")) == "7"
    assert digit(curl(url, "--data-binary", f"@{seven}", "-H", "Transfer-Encoding: chunked")) == "7"
    assert digit(curl(cluster.url, "--data-binary", f"@{seven}", "-X", "POST")) == "7"


def test_three_workers_answer_equally_often(cluster: Cluster, seven: Path) -> None:
    with httpx.Client() as client:
        served = Counter(
            client.post(f"{cluster.url}/classify", content=seven.read_bytes()).headers["X-Served-By"] for _ in range(60)
        )
    assert sorted(served.values()) == [20, 20, 20]


def test_a_worker_that_is_killed_costs_no_answer_and_one_that_joins_is_used(cluster: Cluster, seven: Path) -> None:
    with Traffic(cluster.url, seven) as traffic:
        until(lambda: len(traffic.outcomes) > 10, "traffic")
        cluster.workers.pop().end(signal.SIGKILL)
        until(lambda: len(cluster.listed()) == 2, "Consul noticing the death")
        cluster.add(1)
        newest = {worker["id"] for worker in cluster.listed()}
        until(lambda: {outcome.worker for outcome in traffic.outcomes[-9:]} == newest, "traffic to all three")
    assert [outcome.problem for outcome in traffic.outcomes if outcome.problem] == []
    assert len(traffic.outcomes) == traffic.asked


def test_a_worker_that_is_asked_to_leave_finishes_and_costs_no_answer(cluster: Cluster, seven: Path) -> None:
    with Traffic(cluster.url, seven) as traffic:
        until(lambda: len(traffic.outcomes) > 10, "traffic")
        assert cluster.workers.pop().end() == 0
        assert len(cluster.listed()) == 2
        already = len(traffic.outcomes)
        until(lambda: len(traffic.outcomes) > already + 10, "traffic")
    assert [outcome.problem for outcome in traffic.outcomes if outcome.problem] == []
    cluster.add(1)


def test_consul_may_forget_everything(cluster: Cluster, consul: ConsulAgent, seven: Path) -> None:
    ids = {worker["id"] for worker in cluster.listed()}
    with Traffic(cluster.url, seven) as traffic:
        consul.stop()
        already = len(traffic.outcomes)
        until(lambda: len(traffic.outcomes) > already + 40, "traffic without Consul")
        consul.start()
        until(lambda: registered(consul) == ids, "the workers announcing themselves again", 10)
    until(lambda: {worker["id"] for worker in cluster.listed()} == ids, "the proxy seeing them", 10)
    assert [outcome.problem for outcome in traffic.outcomes if outcome.problem] == []


def registered(consul: ConsulAgent) -> set[str]:
    services = httpx.get(f"http://{consul.address}/v1/health/service/worker?passing=1").json()
    return {entry["Service"]["ID"] for entry in services}
