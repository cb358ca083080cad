"""Several proxy processes on one port: whichever ends, however it ends, no client that comes meanwhile notices."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from muster.lifetime import TWICE, Stop
from muster.settings import load
from proxy.grpc_api import NOT_SERVING, SERVING
from proxy.grpc_quietly import grpc
from proxy.place import Place
from proxy.processes import Parent
from proxy.running import SILENT
from proxy.settings import ProxySettings, processes
from tests.consul_agent import free_ports
from tests.proxy.harness import DEADLINE, RunningProxy, ScriptedWorker, Seen, get, until

START = 30.0
"""Seconds that several processes may take to start on a busy machine."""


class Family:
    """A parent and its children."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, grpc_port: int) -> None:
        self.process = process
        self.proxy = RunningProxy(port)
        self.grpc_port = grpc_port
        self.said = b""

    @property
    def children(self) -> list[int]:
        with suppress(psutil.NoSuchProcess):
            return sorted(child.pid for child in psutil.Process(self.process.pid).children())
        return []

    async def says(self, text: bytes, times: int = 1) -> None:
        """Wait until it has logged `text` that often."""
        assert self.process.stderr is not None
        async with asyncio.timeout(START):
            while self.said.count(text) < times:
                line = await self.process.stderr.readline()
                assert line, self.said.decode()
                self.said += line


@asynccontextmanager
async def family(*options: str, processes: int = 2, **environ: str) -> AsyncIterator[Family]:
    port, grpc_port = free_ports(2)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port), "--grpc-port", str(grpc_port),
        "--processes", str(processes), "--access-log", "off", *options, stderr=asyncio.subprocess.PIPE,
        env=os.environ | environ,
    )  # fmt: skip
    one = Family(process, port, grpc_port)
    try:
        yield one
    finally:
        children = [psutil.Process(pid) for pid in one.children]
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, DEADLINE)
        assert not alive, "a child outlives its parent"


@asynccontextmanager
async def serving(*options: str, processes: int = 2, **environ: str) -> AsyncIterator[Family]:
    """A family in front of a worker, all processes listening."""
    worker = ScriptedWorker(name="w")
    await worker.start()
    async with family(
        "--registry", f"static://127.0.0.1:{worker.port}", "--no-grpc", *options, processes=processes, **environ
    ) as one:
        await one.says(b"listening on", processes)
        yield one
    await worker.stop()


class Visitors:
    """Clients that come all the time, each with a connection of its own, while the block lasts."""

    def __init__(self, proxy: RunningProxy) -> None:
        self._proxy = proxy
        self._over = False
        self.served = 0
        self.failed: list[BaseException] = []

    async def come(self) -> None:
        while not self._over:
            try:
                got = await self._proxy.ask(get())
                assert got.status == 200
                self.served += 1
            except (OSError, AssertionError, TimeoutError) as error:
                self.failed.append(error)

    async def more(self, number: int) -> None:
        """Wait until so many more were served."""
        goal = self.served + number
        async with asyncio.timeout(START):
            while self.served < goal and not self.failed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not self.failed

    async def __aenter__(self) -> Visitors:
        self._tasks = [asyncio.create_task(self.come()) for _ in range(4)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)


async def test_clients_that_come_while_a_process_is_asked_to_end_are_served_by_the_other() -> None:
    async with serving() as one, Visitors(one.proxy) as visitors:
        await visitors.more(50)
        first, second = one.children
        os.kill(first, signal.SIGTERM)
        await visitors.more(200)
        await one.says(b"listening on", 3)
        await visitors.more(100)
        assert second in one.children
        assert first not in one.children
        os.kill(second, signal.SIGTERM)
        await one.says(b"listening on", 4)
        await visitors.more(100)
    assert not visitors.failed


async def test_all_processes_are_replaced_one_by_one_and_nobody_notices() -> None:
    async with serving() as one, Visitors(one.proxy) as visitors:
        await visitors.more(50)
        before = set(one.children)
        one.process.send_signal(signal.SIGHUP)
        await one.says(b"the processes are replaced")
        await visitors.more(100)
        async with asyncio.timeout(DEADLINE):
            while before & set(one.children):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert len(one.children) == 2
    assert not visitors.failed


async def test_who_asks_for_new_processes_while_they_are_being_replaced_gets_still_newer_ones() -> None:
    async with serving() as one:
        one.process.send_signal(signal.SIGHUP)
        await one.says(b"replacing the processes")
        one.process.send_signal(signal.SIGHUP)
        await one.says(b"the processes are replaced", 2)


async def test_a_process_that_is_killed_is_started_again_and_its_part_of_the_port_is_served_meanwhile() -> None:
    async def keep_away(one: Family, survivor: int) -> None:
        while True:
            for child in one.children:
                if child != survivor:
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
            await asyncio.sleep(0.02)

    async with serving() as one:
        first, second = one.children
        os.kill(first, signal.SIGKILL)
        await one.says(b"was killed by SIGKILL")
        away = asyncio.create_task(keep_away(one, second))
        for _ in range(50):  # by chance half of them come to its part
            assert (await one.proxy.ask(get())).status == 200
        away.cancel()
        await one.says(b"listening on", 3)
        for _ in range(20):
            assert (await one.proxy.ask(get())).status == 200


async def test_asked_to_end_the_parent_ends_all_and_the_port_refuses() -> None:
    async with serving() as one, one.proxy.client() as client:
        assert (await client.ask(get())).status == 200
        one.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(one.process.wait(), DEADLINE) == 0
        assert one.children == []
        with pytest.raises(ConnectionError):
            await one.proxy.connect()


async def test_asked_twice_to_end_the_parent_does_not_wait_and_nor_do_the_others() -> None:
    never = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await never.wait()

    worker = ScriptedWorker(answer)
    await worker.start()
    async with (
        family("--registry", f"static://127.0.0.1:{worker.port}", "--no-grpc") as one,
        asyncio.timeout(START),
    ):
        await one.says(b"listening on", 2)
        async with one.proxy.client() as client:
            client.writer.write(get())
            await until(lambda: bool(worker.seen))
            one.process.send_signal(signal.SIGTERM)
            await one.says(b"stopping", 3)
            children = [psutil.Process(child) for child in one.children]
            await asyncio.sleep(2 * TWICE)
            assert one.process.returncode is None
            one.process.send_signal(signal.SIGTERM)
            assert await one.process.wait() == -signal.SIGTERM
            _, alive = await asyncio.to_thread(psutil.wait_procs, children, DEADLINE)
            assert not alive
    never.set()
    await worker.stop()


async def test_the_port_is_closed_until_a_process_has_its_first_snapshot() -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(never, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, family("--registry", f"consul://127.0.0.1:{port}") as one:
        await one.says(b"waiting for the registry's first word", 2)
        for tried in (one.proxy.port, one.grpc_port):
            with pytest.raises(ConnectionError):
                await RunningProxy(tried).connect()


async def test_a_port_that_is_taken_is_named_and_ends_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with family("--port", str(port), "--registry", "static://") as one:
            _, said = await asyncio.wait_for(one.process.communicate(), START)
    assert one.process.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: address already in use" in said.decode()
    assert b"Traceback" not in said


async def test_processes_that_cannot_start_end_the_parent_with_an_error() -> None:
    async with family("--registry", "zookeeper://x") as one:
        _, said = await asyncio.wait_for(one.process.communicate(), START)
    assert one.process.returncode == 1
    assert b"zookeeper" in said
    assert b"Traceback" not in said


@pytest.mark.parametrize("number", ["0", "-1", "many", "1000"])
def test_a_number_of_processes_that_makes_no_sense_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match=r"process|whole number"):
        processes(number)


def counted(metrics: str, name: str) -> dict[str, float]:
    """The samples of a counter without labels of its own, by process."""
    found = re.findall(rf'^{name}{{process="(\d+)"}} (\S+)$', metrics, re.MULTILINE)
    return {process: float(value) for process, value in found}


async def test_whichever_process_is_asked_answers_for_all_of_them() -> None:
    async with serving() as one:
        for _ in range(40):
            assert (await one.proxy.ask(get())).status == 200
        for _ in range(8):  # by chance both are asked
            metrics = (await one.proxy.ask(get(b"/metrics"))).body.decode()
            requests = counted(metrics, "muster_proxy_requests_total")
            assert set(requests) == {"0", "1"}
            assert sum(requests.values()) == 40
            assert metrics.count("# TYPE muster_proxy_requests_total counter") == 1
            assert 'muster_proxy_processes{state="answering"} 2.0' in metrics
            (worker,) = (await one.proxy.ask(get(b"/workers"))).json["workers"]  # type: ignore[misc]
            assert worker["picks"] == 40
            assert {process["picks"] for process in worker["processes"].values()} == set(requests.values())


def test_what_all_may_have_together_is_shared_to_the_last_one() -> None:
    settings = ProxySettings(processes=3, queue=4, max_connections=11, max_connections_per_peer=2, replay_total=2**20)
    shares = [Place(number, 3, (), 0, 0, {}).share(settings) for number in range(3)]
    assert [share.queue for share in shares] == [2, 1, 1]
    assert [share.max_connections for share in shares] == [4, 4, 3]
    assert [share.max_connections_per_peer for share in shares] == [1, 1, 1], "nobody is left without any"
    assert sum(share.replay_total for share in shares) == 2**20


async def test_a_process_that_hangs_is_covered_by_the_other_and_goes_on_when_it_is_back() -> None:
    async with serving() as one:
        before = one.children
        os.kill(before[0], signal.SIGSTOP)
        try:
            waiting = [asyncio.create_task(one.proxy.ask(get())) for _ in range(20)]  # by chance half come to it
            await one.says(b"does not react")
            assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
            for _ in range(20):
                assert (await one.proxy.ask(get())).status == 200
        finally:
            os.kill(before[0], signal.SIGCONT)
        await one.says(b"reacts again")
        assert one.children == before
        async with asyncio.timeout(DEADLINE):
            while b'{state="answering"} 2.0' not in (await one.proxy.ask(get(b"/metrics"))).body:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@asynccontextmanager
async def parent_here() -> AsyncIterator[RunningProxy]:
    """A parent in this process, so that it can be meddled with, and two children."""
    (port,) = free_ports(1)
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-grpc", "--processes", "2", "--access-log", "off"]
    arguments = [*options, "--registry", "static://", "--drain-timeout", "1"]
    stop = Stop()
    running = asyncio.create_task(Parent(load(ProxySettings, arguments, {}, "PROXY"), arguments).run(stop))
    proxy = RunningProxy(port)
    try:
        await told(proxy, 'muster_proxy_processes{state="answering"} 2.0')
        yield proxy
    finally:
        stop.request("the test is over")
        await asyncio.wait_for(running, START)


def children_here() -> list[psutil.Process]:
    """The proxy processes whose parent is this process, which may have other children."""
    return [child for child in psutil.Process().children() if "proxy" in child.cmdline()]


async def told(proxy: RunningProxy, figure: str) -> None:
    """Wait until the metrics have that figure."""
    async with asyncio.timeout(START):
        while True:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    if figure in (await proxy.ask(get(b"/metrics"))).body.decode():
                        return
            await asyncio.sleep(0.05)


async def test_a_process_that_hangs_for_long_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.processes.HUNG", SILENT + 1)
    async with parent_here() as proxy:
        hangs = children_here()[-1]
        hangs.suspend()
        await told(proxy, 'muster_proxy_process_starts_total{process="1",reason="hung"} 1.0')
        assert not hangs.is_running() or hangs.status() == psutil.STATUS_ZOMBIE


async def test_when_the_system_has_no_room_for_a_process_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = asyncio.create_subprocess_exec, 0

    async def full(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await start(*arguments, **options)

    async with parent_here() as proxy:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", full)
        children_here()[-1].kill()
        await told(proxy, 'muster_proxy_process_starts_total{process="1",reason="died"} 1.0')
    assert refused == 2


async def test_a_process_that_dies_while_it_is_being_replaced_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    start = asyncio.create_subprocess_exec
    successor: list[asyncio.subprocess.Process] = []

    async def never_ready(*_: Any, **options: Any) -> asyncio.subprocess.Process:
        successor.append(await start("sleep", "60", **options))
        return successor[0]

    async with parent_here() as proxy:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", never_ready)
        old = children_here()[0]
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: bool(successor))
        old.kill()
        await until(lambda: not old.is_running())
        async with asyncio.timeout(DEADLINE):
            for _ in range(20):
                assert (await proxy.ask(get(b"/healthz"))).status == 200


async def test_nothing_of_the_processes_stays_behind_in_the_file_system_when_the_parent_is_killed(
    tmp_path: Path,
) -> None:
    async with serving(TMPDIR=str(tmp_path)) as one:
        assert b'{state="answering"} 2.0' in (await one.proxy.ask(get(b"/metrics"))).body
    assert not any(os.scandir(tmp_path))


async def test_a_process_that_is_away_is_missing_from_the_figures_and_that_is_said() -> None:
    async with serving() as one:
        first, _ = one.children
        os.kill(first, signal.SIGSTOP)  # half of the connections come to it, and wait
        try:
            async with asyncio.timeout(START):
                while True:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(2):
                            metrics = (await one.proxy.ask(get(b"/metrics"))).body.decode()
                        break
        finally:
            os.kill(first, signal.SIGCONT)
        assert 'muster_proxy_processes{state="answering"} 1.0' in metrics
        assert 'muster_proxy_processes{state="meant"} 2.0' in metrics


async def test_grpc_calls_that_wait_for_a_connection_go_on_while_a_process_is_replaced() -> None:
    """gRPC's library closes its listener itself, and with it the connections that nobody has accepted yet."""

    async def check(one: Family) -> bytes:
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{one.grpc_port}", options=options) as channel:
            method = channel.unary_unary("/grpc.health.v1.Health/Check")
            answer: bytes = await method(b"", timeout=DEADLINE, wait_for_ready=True)
            return answer

    async with serving("--grpc") as one:
        for _ in range(10):
            assert await check(one) in (SERVING, NOT_SERVING)
        os.kill(one.children[0], signal.SIGTERM)
        await one.says(b"takes no new connections")
        for _ in range(20):
            assert await check(one) in (SERVING, NOT_SERVING)
        await one.says(b"listening for gRPC", 3)
        for _ in range(10):
            assert await check(one) in (SERVING, NOT_SERVING)
