"""The access log: what its lines say, that nobody can forge one, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy import line_writer
from proxy.access import LONGEST, AccessLog
from proxy.line_writer import BACKLOG, WHOLE, LineWriter, pieces
from tests.consul_agent import free_ports
from tests.proxy.harness import (
    DEADLINE,
    RunningProxy,
    ScriptedWorker,
    Seen,
    always,
    cluster,
    get,
    post,
    read_body,
    response,
    until,
)


class Lines:
    """Lines in a list."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.dropped = 0

    def add(self, line: bytes) -> None:
        self.lines.append(line)


def noted(*, as_json: bool, target: bytes = b"/x", model: str | None = None, request_id: bytes = b"id-1") -> bytes:
    lines = Lines()
    log = AccessLog(lines, as_json=as_json, wall=lambda: 1_700_000_000.25)
    log.note(b"10.0.0.7", b"POST", target, 200, 100, 50, model, "w1", 2, 0.0123, 0.0121, 0.0, b"complete", request_id)
    (line,) = lines.lines
    return line


def test_a_line_of_text_says_all_that_is_known() -> None:
    assert noted(as_json=False, model="digits") == (
        b'2023-11-14T22:13:20.250Z 10.0.0.7 "POST /x" 200 in=100 out=50 model=digits worker=w1 attempts=2 '
        b"total=12.30 upstream=12.10 queue=0.00 end=complete id=id-1\n"
    )


def test_a_line_of_json_says_the_same() -> None:
    assert json.loads(noted(as_json=True, model="digits")) == {
        "time": "2023-11-14T22:13:20.250Z", "client": "10.0.0.7", "method": "POST", "path": "/x", "status": 200,
        "bytes_in": 100, "bytes_out": 50, "model": "digits", "worker": "w1", "attempts": 2, "total_ms": 12.3,
        "upstream_ms": 12.1, "queue_ms": 0.0, "end": "complete", "id": "id-1",
    }  # fmt: skip


@given(st.binary(max_size=60), st.none() | st.text(max_size=30), st.binary(max_size=20))
@example(b'/a" 200 in=1\n2023 forged', "m\nforged", b'"}')
@example(b"/\xff\xfe", "\udcff ", b"\\")
@example(b"/" + b"a" * 5000, "m" * 5000, b"")
def test_nothing_that_a_client_says_breaks_out_of_its_place(
    target: bytes, model: str | None, request_id: bytes
) -> None:
    line = noted(as_json=False, target=target, model=model, request_id=request_id)
    assert line.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    assert len(line) < 8 * LONGEST + 400
    shape = rb'\S+ 10\.0\.0\.7 "POST (?:[^"\\]|\\.)*" 200 in=100 out=50 model=\S+ worker=w1 attempts=2 .*\n'
    assert re.fullmatch(shape, line)
    told = json.loads(noted(as_json=True, target=target, model=model, request_id=request_id))
    assert (told["status"], told["worker"], told["end"]) == (200, "w1", "complete")


# The writer


@given(
    st.lists(st.binary(min_size=1, max_size=50).map(lambda line: line.replace(b"\n", b"") + b"\n")), st.integers(1, 99)
)
def test_lines_are_written_whole_and_in_order(lines: list[bytes], limit: int) -> None:
    parts = list(pieces(b"".join(lines), limit))
    assert b"".join(parts) == b"".join(lines)
    assert all(len(part) <= limit or part.count(b"\n") == 1 for part in parts)
    assert all(part.endswith(b"\n") for part in parts)


async def test_a_pipe_that_nobody_reads_costs_lines_and_no_time() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing, asyncio.get_running_loop())
    line = b"x" * 999 + b"\n"
    began = time.perf_counter()
    for _ in range(3 * BACKLOG // len(line)):
        writer.add(line)
    assert time.perf_counter() - began < 5
    await until(lambda: writer.dropped > BACKLOG // len(line))
    os.close(reading)  # now writing fails, and the thread can end
    writer.close()
    os.close(writing)


async def test_what_a_pipe_gets_is_whole_lines_in_pieces_that_nobody_gets_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrote: list[bytes] = []
    reading, writing = os.pipe()
    monkeypatch.setattr(line_writer.os, "write", lambda _, data: wrote.append(data) or len(data))
    with line_writer.line_writer(writing, asyncio.get_running_loop()) as writer:
        for number in range(1000):
            writer.add(b"line %d\n" % number)
    monkeypatch.undo()
    os.close(reading)
    os.close(writing)
    assert b"".join(wrote) == b"".join(b"line %d\n" % number for number in range(1000))
    assert all(len(piece) <= WHOLE and piece.endswith(b"\n") for piece in wrote)


async def test_a_descriptor_that_is_not_to_wait_is_waited_for_all_the_same() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writer = LineWriter(writing, asyncio.get_running_loop())
    lines = [b"%d " % number + b"x" * 500 + b"\n" for number in range(1000)]
    for line in lines:
        writer.add(line)
    got = b""
    while got.count(b"\n") < len(lines):
        got += await asyncio.to_thread(os.read, reading, 65536)
        writer._hand_over()
    assert got == b"".join(lines)
    writer.close()
    os.close(reading)
    os.close(writing)


# The whole


class Log:
    """What the proxy wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._path.read_bytes().splitlines() if line.startswith(b'{"time"')]

    async def of(self, path: str) -> dict[str, object]:
        await until(lambda: any(line["path"] == path for line in self.lines()))
        (line,) = [line for line in self.lines() if line["path"] == path]
        return line


@asynccontextmanager
async def logging_cluster(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, *workers: ScriptedWorker, **changes: object
) -> AsyncIterator[tuple[RunningProxy, Log]]:
    """A proxy in this process, whose standard output is a file."""
    path = tmp_path / "access"
    kept = os.dup(1)
    with capfd.disabled(), path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        try:
            async with cluster(*workers, access_log="json", **changes) as proxy:
                yield proxy, Log(path)
        finally:
            os.dup2(kept, 1)
            os.close(kept)


async def test_every_way_a_request_can_end_is_told(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        if b"/cut" in seen.line:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            await writer.drain()
            writer.transport.abort()
        elif b"/reset" in seen.line:
            writer.transport.abort()
        elif b"/never" in seen.line:
            await asyncio.sleep(60)
        else:
            writer.write(response(b"fine"))

    worker = ScriptedWorker(answer, name="w1", replay_safe=False)
    settings = {"body_timeout": 0.1, "response_timeout": 1.0}
    async with logging_cluster(capfd, tmp_path, worker, **settings) as (proxy, log):
        assert (await proxy.ask(post(b"picture", b"/fine", b"X-Request-Id: mine\r\n"))).status == 200
        line = await log.of("/fine")
        assert (line["client"], line["method"], line["status"], line["id"]) == ("127.0.0.1", "POST", 200, "mine")
        assert (line["bytes_in"], line["worker"], line["attempts"], line["end"]) == (7, "w1", 1, "complete")
        assert isinstance(line["bytes_out"], int)
        assert line["bytes_out"] > 40
        assert isinstance(line["total_ms"], float)
        assert isinstance(line["upstream_ms"], float)
        assert 0 < line["upstream_ms"] <= line["total_ms"]

        with pytest.raises(Exception, match=r".*"):  # the connection is reset, however that is seen
            await proxy.ask(post(b"picture", b"/cut"))
        assert (await log.of("/cut"))["end"] == "worker:cut"

        assert (await proxy.ask(post(b"picture", b"/reset"))).status == 502
        assert ((await log.of("/reset"))["end"], (await log.of("/reset"))["status"]) == ("worker:reset", 502)

        assert (await proxy.ask(post(b"picture", b"/never"))).status == 504
        assert (await log.of("/never"))["end"] == "worker:timeout"

        async with proxy.client() as client:
            client.writer.write(post(b"picture", b"/never/left"))
            await until(lambda: any(b"left" in seen.line for seen in worker.seen))
        line = await log.of("/never/left")
        assert (line["end"], line["status"]) == ("client:left", None)

        async with proxy.client() as client:
            client.writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
            assert (await client.answer_to(b"POST")).status == 408
        line = await log.of("/slow")
        assert (line["end"], line["status"]) == ("client:timeout", 408)

        assert (await proxy.ask(b"GET /bad HTTP/1.1\r\n\r\n")).status == 400
        line = await log.of("-")
        assert (line["end"], line["status"]) == ("client:refused", 400)

        assert (await proxy.ask(get(b"/v1/models/nobody-has-it"))).status == 404
        line = await log.of("/v1/models/nobody-has-it")
        assert (line["end"], line["status"], line["worker"], line["model"]) == (
            "proxy:refused", 404, None, "nobody-has-it",
        )  # fmt: skip

        assert (await proxy.ask(get(b"/healthz"))).status == 200
        line = await log.of("/healthz")
        assert (line["end"], line["worker"], line["attempts"]) == ("complete", None, 0)


async def test_a_client_that_does_not_take_its_answer_is_told(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    worker = ScriptedWorker(always(response(bytes(8_000_000))))
    async with logging_cluster(capfd, tmp_path, worker, write_timeout=0.2) as (proxy, log), proxy.client() as client:
        client.writer.write(get(b"/large"))
        line = await log.of("/large")
        assert (line["end"], line["status"]) == ("client:timeout", 200)


async def test_a_request_that_the_proxys_end_does_not_wait_for_is_told(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def never(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    worker = ScriptedWorker(never)
    async with AsyncExitStack() as clients:
        async with logging_cluster(capfd, tmp_path, worker, drain_timeout=0.1) as (proxy, log):
            client = await clients.enter_async_context(proxy.client())
            client.writer.write(get(b"/never"))
            await until(lambda: bool(worker.seen))
        line = await log.of("/never")
        assert (line["end"], line["status"]) == ("proxy:stopped", None)


async def test_how_long_somebody_waited_who_left_before_his_turn_is_told(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    go_on = asyncio.Event()

    async def waits(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(response(b"at last"))

    worker = ScriptedWorker(waits)
    worker.worker = dataclasses.replace(worker.worker, capacity=1)
    async with logging_cluster(capfd, tmp_path, worker) as (proxy, log), proxy.client() as first:
        first.writer.write(get(b"/first"))
        await until(lambda: bool(worker.seen))
        async with proxy.client() as second:
            second.writer.write(get(b"/second"))
            assert (await proxy.ask(get(b"/healthz"))).status == 200
        line = await log.of("/second")
        assert (line["end"], line["worker"]) == ("client:left", None)
        assert isinstance(line["queue_ms"], float)
        assert isinstance(line["total_ms"], float)
        assert 0 < line["queue_ms"] <= line["total_ms"]
        go_on.set()
        assert (await first.answer_to(b"GET")).status == 200


async def test_a_request_that_no_worker_takes_is_told(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    worker = ScriptedWorker(name="w1")
    async with logging_cluster(capfd, tmp_path, worker) as (proxy, log):
        await worker.stop()
        assert (await proxy.ask(post(b"picture", b"/gone"))).status in (502, 503)
        assert (await log.of("/gone"))["end"] in ("worker:refused", "proxy:refused")


async def test_a_program_writes_its_lines_to_standard_output_and_its_news_to_standard_error() -> None:
    worker = ScriptedWorker(name="w1")
    await worker.start()
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port), "--no-grpc", "--registry",
        f"static://127.0.0.1:{worker.port}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    proxy = RunningProxy(port)
    async with asyncio.timeout(3 * DEADLINE):
        while True:
            try:
                assert (await proxy.ask(get(b"/told"))).status == 200
                break
            except OSError:
                await asyncio.sleep(0.05)
    process.terminate()
    out, news = await process.communicate()
    await worker.stop()
    assert re.fullmatch(
        rb'\S+Z 127\.0\.0\.1 "GET /told" 200 in=0 out=\d+ model=- worker=w1 .* end=complete id=\S+\n', out
    )
    assert b"listening on" in news
