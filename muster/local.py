"""A whole cluster on this machine, as `muster up` runs it: an embedded registry, a proxy, workers, each a real process.

They are announced when the proxy lists every worker. From then on whoever dies is started again; but what cannot even
start ends the whole with its own sentence. The end goes backwards: the workers, which finish what they have, then the
proxy, then the registry. A second Ctrl-C does not wait; and if this process is killed, the others end by themselves.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from muster.answers import Listed
from muster.child import Backoff, Child, Line, ending
from muster.client import AsyncClient
from muster.errors import ClusterError
from muster.guide import guide, reachable
from muster.lifetime import Stop, supervised

MODELS: Final = Path("models")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
SERVES: Final = re.compile(r"(?:worker\S* is ready|listening|the embedded registry is) (?:at|on) (\S+)")
"""What a worker logs once it is announced, a proxy and a registry once their ports are open."""
LOOK: Final = 0.1
"""Seconds between two looks at who is ready."""
SECOND_THOUGHT: Final = 0.5
"""Seconds within which a second signal is the first one's echo: a process group and `make` both pass it on."""
DRAIN: Final = "5"
"""Seconds that requests under way have to finish."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """What `muster up` was asked for. Without a `model` it is ./models, and one is made there if there is none."""

    workers: int
    model: Path | None
    host: str
    port: int
    grpc_port: int
    """0 takes a free one."""
    verbose: bool


class CannotStart(ClusterError):
    """The cluster cannot run as it was asked for."""


def run(settings: LocalSettings) -> None:
    """Run the cluster until a signal. Raises CannotStart, one sentence. However it ends, nothing is left running."""
    _check(settings)
    asyncio.run(_run(settings))


def _check(settings: LocalSettings) -> None:
    """Find before anything is started what can be found then."""
    if any(importlib.util.find_spec(name) is None for name in ("aiohttp", "uvloop", "tensorflow")):
        raise CannotStart("the servers are not installed here; pip install 'muster[proxy,digits]' brings them")
    if settings.model is not None and not settings.model.exists():
        raise CannotStart(f"there is no model at {settings.model}")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for port in (settings.port, settings.grpc_port):
        try:
            socket.create_server((settings.host, port), family=family).close()
        except OSError as error:
            why = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or str(error)
            raise CannotStart(f"cannot listen on {settings.host} port {port}: {why}") from None


async def _run(settings: LocalSettings) -> None:
    lifeline, ours = os.pipe()  # nothing is ever written to `ours`: that it closes when we die is the message
    try:
        await LocalCluster(settings, lifeline).run()
    finally:
        for number in SIGNALS:  # an impatient one more Ctrl-C: there is nothing left to end
            signal.signal(number, signal.SIG_IGN)
        os.close(lifeline)
        os.close(ours)


class LocalCluster:
    """The processes and those who keep them going. `lifeline` is the read end of a pipe that closes when we die."""

    def __init__(self, settings: LocalSettings, lifeline: int) -> None:
        self._settings = settings
        self._lifeline = lifeline
        self._stop = Stop()
        self._asked_to_stop_at = 0.0
        self._failure: str | None = None
        self._children: list[Child] = []
        self._up = False
        self._coming_back: set[str] = set()

    async def run(self) -> None:
        """Run until a signal, or until something cannot start, which raises CannotStart."""
        self._listen()
        async with AsyncExitStack() as life:
            if self._settings.model is None:
                await self._make_model()
            await self._start(life)
            await self._stop.wait()
        if self._failure is not None:
            raise CannotStart(self._failure)
        if self._up:
            _say("Everything has ended.")

    def _listen(self) -> None:
        """Hear signals, but not through the loop: its handlers are gone once it is closed, before we are."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._signalled))

    def _signalled(self) -> None:
        now = time.monotonic()
        if not self._stop.requested:
            self._asked_to_stop_at = now
            self._stop.request("asked to")
            if self._up:
                _say("Ending: the workers finish what they have. Ctrl-C again does not wait for that.")
            else:
                _say("Ending before the cluster was up.")
        elif now - self._asked_to_stop_at > SECOND_THOUGHT:
            for child in self._children:
                child.kill()

    async def _make_model(self) -> None:
        """Let ./models hold a model. It is the child's business to see whether there is one."""
        child = self._child("digits", "worker.digits", "--out", str(MODELS), "--only-if-empty")
        making, stopping = asyncio.create_task(child.run()), asyncio.create_task(self._stop.wait())
        await asyncio.wait((making, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stop.requested:
            making.cancel()
            await asyncio.wait([making])
        elif making.result() != 0:
            raise CannotStart(child.why or f"making the digits model {ending(making.result())}")

    async def _start(self, life: AsyncExitStack) -> None:
        if self._stop.requested:
            return
        settings, began, port = self._settings, time.monotonic(), _free_port()
        model, address = settings.model or MODELS, f"embedded://127.0.0.1:{port}"
        # The cores are shared out, so that the workers do not fight over them.
        runners = str(max(1, (os.cpu_count() or 1) // settings.workers))
        # What could stand otherwise in the environment, and must not, is said here.
        server = ("--registry", address, "--host", settings.host, "--drain-timeout", DRAIN)
        grpc_port = settings.grpc_port or _free_port()
        registry = self._child("registry", "discovery", "--host", "127.0.0.1", "--port", str(port))
        proxy = self._child(
            "proxy",
            "proxy",
            *server,
            "--port",
            str(settings.port),
            "--grpc",
            "--grpc-port",
            str(grpc_port),
            "--access-log",
            "text" if settings.verbose else "off",
        )
        workers = [
            self._child(
                f"worker-{number}",
                "worker",
                *server,
                "--port",
                "0",
                "--grpc-port",
                "0",
                "--model",
                str(model),
                "--runners",
                runners,
            )
            for number in range(1, settings.workers + 1)
        ]
        _say(f"Starting a registry, a proxy and {_count(settings.workers)} ...")
        await self._keep(life, [registry])
        await self._listening("127.0.0.1", port)
        await self._keep(life, [proxy])
        await self._keep(life, workers)
        listed = await self._all_listed(began)
        if not self._stop.requested:
            self._up = True
            _say(guide(settings.host, settings.port, grpc_port, address, listed, model))

    def _child(self, name: str, *arguments: str) -> Child:
        child = Child(name, list(arguments), self._lifeline, self._hear)
        self._children.append(child)
        return child

    async def _keep(self, life: AsyncExitStack, children: Sequence[Child]) -> None:
        """Keep these going until the block ends; then end all of them at the same time."""

        async def keep_all() -> None:
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(self._keep_one(child))

        await life.enter_async_context(supervised(f"keeping {children[0].name}", keep_all(), self._stop))

    async def _keep_one(self, child: Child) -> None:
        backoff = Backoff()
        while True:
            born = time.monotonic()
            status = await child.run()
            if status > 0 and not self._up:
                self._failure = f"{child.name} cannot start: {child.why or ending(status)}"
                self._stop.request(self._failure)
                await asyncio.get_running_loop().create_future()  # to be cancelled when it is its turn
            pause = backoff.after(time.monotonic() - born)
            _say(f"{child.name} {ending(status)}; it is started again in {pause:g} s")
            self._coming_back.add(child.name)
            await asyncio.sleep(pause)

    async def _listening(self, host: str, port: int) -> None:
        """Return when something accepts connections there, or when we are to stop."""
        while not self._stop.requested:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                return
            await asyncio.sleep(LOOK)

    async def _all_listed(self, began: float) -> list[Listed]:
        """The workers once the proxy lists all of them; or fewer when we are to stop."""
        listed: list[Listed] = []
        settings = self._settings
        async with AsyncClient(f"{reachable(settings.host)}:{settings.port}", timeout=2, attempts=1) as client:
            while len(listed) < settings.workers and not self._stop.requested:
                await asyncio.sleep(LOOK)
                before = len(listed)
                with suppress(ClusterError):
                    listed = await client.workers()
                if len(listed) != before:
                    took = time.monotonic() - began
                    _say(f"  {len(listed)} of {_count(settings.workers)} ready after {took:.1f} s")
        return listed

    def _hear(self, line: Line) -> None:
        if line.name == "digits":
            if line.level != "CRITICAL":  # that one becomes the reason why we cannot start
                _say(line.text)
        elif self._settings.verbose:
            _say(f"{line.name:9}| {line.text}")
        elif line.level in ("WARNING", "ERROR") or (line.level == "CRITICAL" and self._up):
            _say(f"{line.name:9}| {line.message}")
        if line.name in self._coming_back and (serves := SERVES.fullmatch(line.message)):
            self._coming_back.remove(line.name)
            _say(f"{line.name} serves again at {serves[1]}")


def _count(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # somebody may read it through a pipe, as it happens
