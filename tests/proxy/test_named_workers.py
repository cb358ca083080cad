"""Workers that are listed with the name of a host."""

from __future__ import annotations

import asyncio
import socket
from threading import Event
from typing import Any

import pytest

from tests.proxy.harness import ScriptedWorker, cluster, get


async def test_workers_are_reached_by_name_while_the_resolver_is_silent_about_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over, system = Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **more: Any) -> Any:
        if str(host).startswith("silent"):
            over.wait()
        return system("127.0.0.1" if host == "here.test" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for _ in range(64):  # the threads in which the loop itself would look names up
        asyncio.get_running_loop().run_in_executor(None, over.wait)
    silent = ",".join(f"silent{number}.test:80" for number in range(40))
    worker = ScriptedWorker()
    try:
        async with cluster(worker, registry=f"static://{silent},here.test:{worker.port}") as proxy:
            got = await proxy.ask(get())
            assert got.status == 200
    finally:
        over.set()
