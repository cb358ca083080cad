"""The cluster as `docker-compose up` makes it: real images, containers, Consul and TensorFlow, and the README's curls.

All tests share one cluster, because it takes a while to start, and the last takes it down. Each first scales it to what
it needs, which costs nothing when it is so already, and none depends on what another did.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.compose.conftest import OWNER
from tests.compose.project import Project, docker, inspect, run, skip_or_fail, until, v2
from tests.compose.traffic import RATE, Traffic
from tests.serving_calls import AVAILABLE, statuses

pytestmark = pytest.mark.compose

REACTION = 5.0
"""Seconds that no request may take, whatever happens to workers: a dead one costs a second until it is left alone."""


@pytest.fixture
def seven(models: Path) -> Path:
    return models / "digits" / "samples" / "7.png"


def curl(*arguments: str) -> str:
    if shutil.which("curl") is None:
        skip_or_fail("there is no `curl`")
    return run(["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "20", *arguments]).stdout


def ask(url: str, picture: Path, *options: str) -> str:
    """The digit that is read on a picture."""
    label: str = json.loads(curl(*options, url, "-F", f"data=@{picture}"))["predictions"][0]["label"]
    return label


def assert_nothing_was_lost(traffic: Traffic, seconds: float) -> None:
    """Call it when the traffic is over. `seconds` is for how long it went on at least."""
    assert not traffic.problems()
    assert len(traffic.outcomes) == traffic.asked >= seconds * RATE
    assert traffic.slowest() < REACTION


def test_a_cluster_that_started_without_a_model_reads_every_digit_through_the_proxy(
    cluster: Project, models: Path
) -> None:
    digits = [str(digit) for digit in range(10)]
    assert [ask(f"{cluster.url}/classify", models / "digits" / "samples" / f"{d}.png") for d in digits] == digits


def test_a_model_is_asked_about_over_grpc_through_the_proxy(cluster: Project) -> None:
    with grpc.insecure_channel(cluster.grpc) as channel:
        assert [one.state for one in statuses(channel, "digits")] == [AVAILABLE]


def test_the_model_belongs_to_whom_the_directory_of_models_belongs(cluster: Project, models: Path) -> None:
    if models.stat().st_uid != OWNER:
        pytest.skip("only root can give a directory to somebody")
    assert {path.stat().st_uid for path in models.rglob("*")} == {OWNER}


def test_p2p_in_two_steps_asks_for_an_address_and_then_the_worker(cluster: Project, seven: Path) -> None:
    address = curl(cluster.url)
    assert address.endswith(":8501\n")
    assert ask(f"{address.strip()}/classify", seven) == "7"


def test_a_redirected_photo_does_not_pass_through_the_proxy(cluster: Project, models: Path) -> None:
    photo = models / "digits" / "samples" / "big.jpg"
    assert photo.stat().st_size > 1_500_000  # enough for curl to ask before it sends a body
    before = received(cluster)
    assert ask(f"{cluster.url}/p2p/classify", photo, "--location")
    assert received(cluster) - before < 100_000  # of which Consul and health checks have the most


def received(cluster: Project) -> int:
    """Bytes that came to the proxy over its network so far."""
    [proxy] = cluster.containers("proxy")
    return int(docker("exec", proxy, "cat", "/sys/class/net/eth0/statistics/rx_bytes"))


def test_three_workers_answer_equally_often(cluster: Project, seven: Path) -> None:
    cluster.scale(3)
    heads = [curl("-D", "-", "-o", "/dev/null", f"{cluster.url}/classify", "-F", f"data=@{seven}") for _ in range(30)]
    served = Counter(line for head in heads for line in head.splitlines() if line.startswith("X-Served-By:"))
    assert list(served.values()) == [10, 10, 10]


def test_scaling_to_five_and_to_two_loses_no_request_and_newcomers_serve_at_once(cluster: Project, seven: Path) -> None:
    cluster.scale(3)
    start = time.monotonic()
    with Traffic(cluster.url, seven) as traffic, Traffic(cluster.url, seven, p2p=True) as direct:
        until("three workers serve", lambda: len(traffic.answered_by()) == 3)
        cluster.compose("up", "-d", "--scale", "worker=5")
        until("five workers are healthy", lambda: healths(cluster) == ["healthy"] * 5)
        until("five workers serve", lambda: len(traffic.answered_by()) == 5, patience=5)
        until("five workers are known to whom they serve directly", lambda: len(direct.answered_by()) == 5)

        cluster.scale(2)
        assert len(cluster.containers("worker")) == 2
        before = len(traffic.outcomes)
        until("the two go on", lambda: len(traffic.outcomes) > before + 2 * RATE)
        seconds = time.monotonic() - start
    assert_nothing_was_lost(traffic, seconds * 0.9)
    assert_nothing_was_lost(direct, seconds * 0.9)
    assert len({outcome.worker for outcome in traffic.outcomes[before + RATE :]}) == 2


def healths(cluster: Project) -> list[str]:
    """What the engine thinks of each worker."""
    return [about["State"]["Health"]["Status"] for about in inspect(*cluster.containers("worker"))]


def test_a_worker_that_is_killed_costs_no_request(cluster: Project, seven: Path) -> None:
    cluster.scale(3)
    start = time.monotonic()
    with Traffic(cluster.url, seven) as traffic:
        until("three workers serve", lambda: len(traffic.answered_by()) == 3)
        docker("kill", cluster.containers("worker")[0])
        cluster.until_listed(2)
        seconds = time.monotonic() - start
    assert_nothing_was_lost(traffic, seconds * 0.9)


def test_a_worker_that_crashes_is_started_again_and_costs_no_request(cluster: Project, seven: Path) -> None:
    cluster.scale(3)
    victim = cluster.containers("worker")[0]
    start = time.monotonic()
    with Traffic(cluster.url, seven) as traffic:
        until("three workers serve", lambda: len(traffic.answered_by()) == 3)
        crash(victim)
        until("it runs again", lambda: inspect(victim)[0]["RestartCount"] == 1)
        until("it serves again, as somebody new", lambda: len(traffic.answered_by()) == 4)
        seconds = time.monotonic() - start
    assert_nothing_was_lost(traffic, seconds * 0.9)


def crash(container: str) -> None:
    """End its main process from outside, where `docker kill` would be taken for the wish that it stay down."""
    process = inspect(container)[0]["State"]["Pid"]
    docker("run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "python", "muster-proxy",
           "-c", f"import os; os.kill({process}, 9)")  # fmt: skip


def test_a_proxy_that_crashes_is_started_again(cluster: Project, seven: Path) -> None:
    cluster.scale(2)
    [proxy] = cluster.containers("proxy")
    crash(proxy)
    until("it runs again", lambda: inspect(proxy)[0]["RestartCount"] == 1)
    cluster.until_listed(2)
    assert ask(f"{cluster.url}/classify", seven) == "7"


def test_a_proxy_that_is_stopped_ends_in_order_and_before_it_would_be_killed(cluster: Project, seven: Path) -> None:
    cluster.scale(2)
    [proxy] = cluster.containers("proxy")
    assert ask(f"{cluster.url}/classify", seven) == "7"
    docker("stop", proxy)
    assert inspect(proxy)[0]["State"]["ExitCode"] == 0
    docker("start", proxy)
    cluster.until_listed(2)


def test_workers_announce_themselves_again_to_a_consul_that_forgot_them(cluster: Project, seven: Path) -> None:
    cluster.scale(2)
    [consul] = cluster.containers("consul")
    start = time.monotonic()
    with Traffic(cluster.url, seven) as traffic:
        cluster.compose("restart", "consul")
        until("Consul lists both", lambda: passing(consul) == 2)
        seconds = time.monotonic() - start
    assert_nothing_was_lost(traffic, seconds * 0.9)


def passing(consul: str) -> int:
    """How many workers Consul thinks healthy; none while it starts."""
    question = ["consul", "watch", "-type=service", "-service=worker", "-passingonly=true"]
    answer = run(["docker", "exec", consul, *question], check=False)
    return 0 if answer.returncode else len(json.loads(answer.stdout) or ())


def test_a_second_start_is_quick_and_makes_no_second_model(cluster: Project, models: Path) -> None:
    made = (models / "digits" / "1" / "saved_model.pb").stat().st_mtime_ns
    cluster.scale(1)
    cluster.compose("stop")
    start = time.monotonic()
    cluster.scale(1)
    assert time.monotonic() - start < 30
    assert (models / "digits" / "1" / "saved_model.pb").stat().st_mtime_ns == made


def test_who_brings_a_model_gets_no_other_beside_it(command: Sequence[str], images: None, tmp_path: Path) -> None:
    graph = tmp_path / "mine" / "1" / "graph.pb"
    graph.parent.mkdir(parents=True)
    graph.touch()
    with ExitStack() as life:
        project = Project("muster-own-model", command, tmp_path)
        life.callback(project.down)
        assert "already" in project.compose("run", "--rm", "models")
    assert not (tmp_path / "digits").exists()


def test_images_tell_nothing_of_where_their_packages_came_from_and_run_as_nobody_special(
    images: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in ("muster-worker", "muster-proxy"):
        [about] = inspect(image)
        with capsys.disabled():
            print(f"\n{image}: {about['Size'] / 1e6:.0f} MB")
        assert "INDEX_URL" not in docker("history", "--no-trunc", image) + json.dumps(about)
        assert about["Config"]["User"] == "10001:10001"


def test_the_proxy_has_no_tensorflow_and_no_room_that_is_not_its_own(images: None) -> None:
    look = "import importlib.util as u; print([n for n in ('tensorflow', 'numpy', 'worker', 'pip') if u.find_spec(n)])"
    asked = ["--network", "none", "--entrypoint", "/opt/muster/bin/python", "muster-proxy", "-c", look]
    assert docker("run", "--rm", *asked) == "[]"


def test_the_newer_docker_compose_runs_the_same_file(images: None, cluster: Project, models: Path, seven: Path) -> None:
    with ExitStack() as life:
        project = Project(f"{cluster.name}-v2", v2(), models)
        life.callback(project.down)
        project.scale(1)
        assert ask(f"{project.url}/classify", seven) == "7"


def test_nothing_of_a_cluster_is_left_behind(cluster: Project) -> None:
    cluster.down()
    assert cluster.remains() == []
