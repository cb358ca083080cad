"""How the watcher behaves towards agents in trouble. The agents here are real servers that play their part."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import orjson
import pytest
from aiohttp import web

from discovery.consul_http import Unreachable, connected
from discovery.consul_settings import ConsulSettings
from discovery.consul_watch import _PROMPT, ConsulWatch, next_index, staleness
from muster.values import Snapshot
from tests.discovery.harness import SOON, serving_http

Act = Callable[[web.BaseRequest], web.Response]


def says(ids: list[str], index: int = 1, **headers: str) -> Act:
    """An agent that lists these workers."""
    entries = [{"Node": {}, "Service": {"ID": id_, "Address": "10.0.0.1", "Port": 1}, "Checks": []} for id_ in ids]
    headers = {"X-Consul-Index": str(index)} | {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.Response(body=orjson.dumps(entries), headers=headers)


def fails(status: int, text: str) -> Act:
    return lambda _: web.Response(status=status, text=text)


class Play:
    """An agent that does one thing after the other, and a watcher of it."""

    def __init__(self, *acts: Act) -> None:
        self.acts = list(acts)
        self.queries: list[dict[str, str]] = []
        self.over = asyncio.Event()
        self.snapshots: list[Snapshot] = []
        self.heard = 0

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.queries.append(dict(request.query))
        if not self.acts:
            self.over.set()
            await asyncio.Event().wait()
        return self.acts.pop(0)(request)

    async def run(self) -> Play:
        """Play it to its end: until the watcher asks after the last act."""

        def hear() -> None:
            self.heard += 1

        async def watch(port: int) -> None:
            async with connected(ConsulSettings(port=port)) as http:
                async for snapshot in ConsulWatch(http, "worker", time.monotonic, Random(1), hear).snapshots():
                    self.snapshots.append(snapshot)

        async with serving_http(self.answer) as port:
            task = asyncio.create_task(watch(port))
            async with asyncio.timeout(SOON):
                await self.over.wait()
            task.cancel()
            await asyncio.wait([task])
        return self

    @property
    def seen(self) -> list[list[str]]:
        return [[worker.id for worker in snapshot.workers] for snapshot in self.snapshots]


async def test_a_poll_that_returns_without_news_yields_nothing() -> None:
    play = await Play(says(["ann"], 5), says(["ann"], 6), says(["ann", "bob"], 7)).run()
    assert play.seen == [["ann"], ["ann", "bob"]]
    assert play.heard == 3


async def test_the_first_question_is_answered_at_once_and_the_next_ones_are_held() -> None:
    play = await Play(says(["ann"], 5), says(["ann"], 6)).run()
    assert play.queries == [
        {"wait": "10s", "stale": ""},
        {"index": "5", "wait": "10s", "stale": ""},
        {"index": "6", "wait": "10s", "stale": ""},
    ]


async def test_an_index_that_went_backwards_starts_over() -> None:
    play = await Play(says(["ann"], 221), says(["ann"], 12), says(["ann"], 12)).run()
    assert [query.get("index") for query in play.queries] == [None, "221", None, "12"]


async def test_an_index_of_zero_never_makes_a_busy_loop() -> None:
    play = await Play(says([], 0)).run()
    assert play.queries[1]["index"] == "1"


async def test_after_an_error_the_old_index_is_forgotten_and_the_workers_are_not() -> None:
    play = await Play(says(["ann"], 221), fails(500, "No cluster leader"), says(["ann"], 221)).run()
    assert [query.get("index") for query in play.queries] == [None, "221", None, "221"]
    assert play.seen == [["ann"]]


@pytest.mark.parametrize(
    "act",
    [
        fails(500, "No cluster leader"),
        fails(429, "Your IP is issuing too many concurrent connections"),
        fails(404, "a web server that is no registry"),
        lambda _: web.Response(text="<html>"),
        lambda _: web.json_response({"a": "web service"}),
        lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    ],
    ids=["no leader", "too many connections", "wrong server", "no JSON", "other JSON", "a redirect"],
)
async def test_an_answer_that_is_none_is_told_once_and_changes_nothing(
    act: Act, caplog: pytest.LogCaptureFixture
) -> None:
    play = await Play(says(["ann"]), act, act, says(["ann"])).run()
    assert play.seen == [["ann"]]
    assert play.heard == 2
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_a_refusal_is_an_error_that_says_what_the_token_must_allow(caplog: pytest.LogCaptureFixture) -> None:
    play = await Play(fails(403, "Permission denied\x1b[2J\n"), says(["ann"])).run()
    (complaint,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "service:read" in complaint.message
    assert "\x1b" not in complaint.message
    assert play.seen == [["ann"]]


async def test_a_server_that_lost_its_leader_long_ago_is_not_believed_but_the_leader_is_asked() -> None:
    lost = says([], 5, X_Consul_LastContact="60000")
    play = await Play(says(["ann"], 4), lost, says(["ann"], 5), says(["ann"], 5)).run()
    assert play.seen == [["ann"]]
    assert ["stale" in query for query in play.queries] == [True, True, False, True, True]
    assert play.heard == 3


async def test_whoever_knows_nothing_yet_takes_an_old_answer() -> None:
    play = await Play(says(["ann"], 4, X_Consul_LastContact="60000")).run()
    assert play.seen == [["ann"]]


async def test_workers_hidden_by_acls_are_missed_aloud(caplog: pytest.LogCaptureFixture) -> None:
    await Play(says([], 4, X_Consul_Results_Filtered_By_ACLs="true")).run()
    assert "hides workers" in caplog.text


@pytest.mark.parametrize(
    ("old", "header", "expected"),
    [(0, "7", 7), (7, "7", 7), (7, "9", 9), (9, "10", 10), (9, "7", 0), (0, "0", 1), (0, "-5", 1), (0, None, 1)],
)
def test_the_next_index(old: int, header: str | None, expected: int) -> None:
    assert next_index(old, {} if header is None else {"X-Consul-Index": header}) == expected


def test_a_server_that_does_not_say_how_old_its_answer_is_is_up_to_date() -> None:
    assert staleness({}) == 0
    assert staleness({"X-Consul-LastContact": "1500"}) == 1.5


@asynccontextmanager
async def hanging_up_after(answers: int) -> AsyncIterator[tuple[int, list[str]]]:
    """A server that keeps its connections alive for so many answers and hangs up on the next request, unanswered."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked.append(head.split()[1].decode())
                if len(asked) > answers:
                    break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Consul-Index: 7\r\n\r\n[]")
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


async def test_a_question_whose_connection_dies_is_never_sent_again_behind_our_back() -> None:
    async with hanging_up_after(1) as (port, asked), connected(ConsulSettings(port=port)) as http:
        await http.request("GET", "/first", timeout=_PROMPT)
        with pytest.raises(Unreachable, match="closed the connection"):
            await http.request("GET", "/second", timeout=_PROMPT)
        assert asked == ["/first", "/second"]


async def test_an_answer_without_end_is_given_up() -> None:
    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(65):
            await response.write(bytes(2**20))
        return response

    async with serving_http(endless) as port, connected(ConsulSettings(port=port)) as http:
        with pytest.raises(Unreachable, match="more than"):
            await http.request("GET", "/", timeout=_PROMPT)
