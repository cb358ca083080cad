"""Several proxy processes that share their ports: this is their parent, which serves nobody itself.

It binds the ports, starts the processes, and starts one again that ends. A process tells when it listens and when it no
longer does, and answers twice a second; the parent lets the others take over the part of the port of one that is away
or hangs, so no connection waits for it. SIGHUP replaces them one by one, each only when its successor is ready. SIGTERM
ends all of them at once; and they end by themselves if this process is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from muster.child import Backoff, ending, environment
from muster.lifetime import Stop
from proxy.listeners import bind
from proxy.place import VARIABLE, Place
from proxy.running import BEAT, HUNG, SILENT, Running
from proxy.settings import ProxySettings

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that a process may take to end, beyond what its requests under way may."""


class CannotStart(Exception):
    """No process came as far as to listen."""


class Parent:
    """All processes; `arguments` are those of the command line, for each of them."""

    def __init__(self, settings: ProxySettings, arguments: Sequence[str]) -> None:
        self._settings = settings
        self._arguments = arguments
        self._running: set[Running] = set()
        self._reaping: set[asyncio.Task[None]] = set()
        self._listened: set[int] = set()  # whose part of the port was ever open
        self._renewal = [asyncio.Event() for _ in range(settings.processes)]
        self._starts: list[dict[str, int]] = [{} for _ in range(settings.processes)]  # of each number, by the reason
        self._failed = asyncio.Event()
        self._rolling: asyncio.Task[None] | None = None
        self._outdated = False  # those that run are to be replaced

    async def run(self, stop: Stop) -> None:
        """Keep them going until `stop`. OSError if a port is taken, CannotStart if none of them can start."""
        settings = self._settings
        with ExitStack() as life:
            ours, theirs = os.pipe()  # the lifeline: who holds its read end ends when the other closes
            life.callback(os.close, ours)
            life.callback(os.close, theirs)
            self._lifeline = ours
            self._listeners = bind(settings.host, settings.port, settings.processes)
            grpc = bind(settings.host, settings.grpc_port, 1) if settings.grpc else []  # held, so that it stays ours
            self._grpc_port = grpc[0][0].getsockname()[1] if grpc else 0
            for sock in [sock for group in (*self._listeners, *grpc) for sock in group]:
                life.callback(sock.close)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self._roll)
            stop.at_once = self._kill
            keeping = [loop.create_task(self._keep(number)) for number in range(settings.processes)]
            waits = [loop.create_task(stop.wait()), loop.create_task(self._failed.wait())]
            watching = loop.create_task(self._watch())
            try:
                await asyncio.wait((*keeping, *waits, watching), return_when=asyncio.FIRST_COMPLETED)
            finally:
                loop.add_signal_handler(signal.SIGHUP, lambda: None)  # there is nothing to replace any more
                rolling = [self._rolling] if self._rolling is not None else []
                for task in (*keeping, *waits, *rolling):
                    task.cancel()
                results = await asyncio.gather(*keeping, *waits, *rolling, return_exceptions=True)
                await self._end()
                watching.cancel()  # not before: who hangs now, too, is not waited for
                results += await asyncio.gather(watching, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        if self._failed.is_set():
            raise CannotStart("the proxy's processes cannot start")

    async def _keep(self, number: int) -> None:
        """See to it that there is a process of this number."""
        backoff = Backoff()
        running = await self._start(number, "first")
        while True:
            await self._news(running)
            if self._renewal[number].is_set():
                running = await self._replace(running)
                self._renewal[number].clear()
            elif running.leaving:
                running = await self._again(running, backoff)

    async def _again(self, gone: Running, backoff: Backoff) -> Running:
        """A process in the place of one that ends or has ended by itself."""
        if gone.cut:
            await gone.over.wait()
        if gone.status is None:
            log.info("process %d takes no new connections; another takes its place", gone.number)
        else:
            log.warning("process %d %s", gone.number, ending(gone.status))
            if gone.status and not gone.ready and not self._listened:
                self._failed.set()
        why = "hung" if gone.silence >= HUNG else "died" if gone.status else "left"
        while True:
            await asyncio.sleep(backoff.after(time.monotonic() - gone.born))
            try:
                return await self._start(gone.number, why)
            except OSError as error:  # no memory, or too many processes: the others go on
                log.error("process %d cannot be started: %s", gone.number, error)  # noqa: TRY400

    async def _replace(self, old: Running) -> Running:
        """A successor of a process that goes on until that one is ready."""
        try:
            new = await self._start(old.number, "renewed")
        except OSError as error:
            log.error("process %d cannot be replaced: %s", old.number, error)  # noqa: TRY400
            return old
        while not (new.ready or new.leaving):
            await self._news(new)
        if new.leaving:
            log.error("process %d cannot be replaced: its successor does not start", old.number)
            return old
        old.terminate()
        return new

    async def _news(self, running: Running) -> None:
        """Wait until something happens to it, or is to happen to its number."""
        await running.changed.wait()
        running.changed.clear()
        if running.ready:
            self._listened.add(running.number)
        self._cover()

    def _roll(self) -> None:
        self._outdated = True
        if self._rolling is None or self._rolling.done():
            self._rolling = asyncio.get_running_loop().create_task(self._replace_all())

    async def _replace_all(self) -> None:
        """As often as it was asked for: who asks while it goes on means those, too, that are new since."""
        while self._outdated:
            self._outdated = False
            log.info("replacing the processes one by one")
            for number, renewal in enumerate(self._renewal):
                renewal.set()
                for running in self._running:
                    if running.number == number:
                        running.changed.set()
                while renewal.is_set():  # noqa: ASYNC110  # rare, and slow anyway
                    await asyncio.sleep(0.05)
            log.info("the processes are replaced")

    def _cover(self) -> None:
        """Let those that listen take over the parts of those that do not."""
        listening = [running for running in self._running if running.listens]
        missing = self._listened - {running.number for running in listening}
        for running in listening:
            running.cover(missing)

    async def _watch(self) -> None:
        """Find out who hangs. The others take over at once; it is killed only when it has had time to come back."""
        while True:
            await asyncio.sleep(BEAT)
            for running in list(self._running):
                running.beat()
                if running.silence == SILENT:
                    log.warning("process %d does not react; new connections are the others' business", running.number)
                elif running.silence == HUNG:
                    log.error("process %d has not reacted for %g seconds; it is killed", running.number, HUNG * BEAT)
                    running.kill()

    def _pass_on(self, number: int, descriptor: int) -> None:
        """A process wants to hear from that number."""
        if descriptor >= 0:
            for running in self._running:
                if running.number == number and running.listens:
                    running.tell(descriptor)
            os.close(descriptor)

    async def _start(self, number: int, why: str) -> Running:
        descriptors = tuple(tuple(sock.fileno() for sock in group) for group in self._listeners)
        starts = {**self._starts[number], why: self._starts[number].get(why, 0) + 1}
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as unless_it_starts:
            unless_it_starts.callback(ours.close)
            place = Place(number, self._settings.processes, descriptors, theirs.fileno(), self._grpc_port, starts)
            process = await asyncio.create_subprocess_exec(
                # -P: a folder `proxy` where the user happens to stand is not to be taken for ours.
                sys.executable, "-P", "-m", "proxy", *self._arguments,
                stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
                pass_fds=(self._lifeline, place.link, *(one for group in descriptors for one in group)),
                env=environment(self._lifeline) | {VARIABLE: place.to_text()},
            )  # fmt: skip
            unless_it_starts.pop_all()
        self._starts[number] = starts
        running = Running(number, process, ours, self._pass_on)
        self._running.add(running)
        reaping = asyncio.get_running_loop().create_task(self._reap(running))
        self._reaping.add(reaping)
        reaping.add_done_callback(self._reaping.discard)
        log.info("process %d has the process id %d", number, process.pid)
        return running

    async def _reap(self, running: Running) -> None:
        await running.ended()
        self._running.discard(running)
        self._cover()  # at once: whoever keeps its number may be waiting for its successor

    async def _end(self) -> None:
        """End all of them: nobody may come in any more, and those who are in have their time."""
        for group in self._listeners:
            for sock in group:
                sock.close()
        for running in list(self._running):
            running.terminate()
        if self._reaping:
            await asyncio.wait(self._reaping, timeout=self._settings.drain_timeout + GRACE)
        for running in self._running:
            log.warning("process %d does not end; it is killed", running.number)
        self._kill()
        if self._reaping:
            await asyncio.wait(self._reaping)

    def _kill(self) -> None:
        """End all of them now."""
        for running in self._running:
            running.kill()
