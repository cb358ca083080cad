"""How a process of the cluster lives: it starts things downward as `with` blocks, waits, and stops them upward.

    async def serve(stop: Stop) -> None:
        async with AsyncExitStack() as life:
            await life.enter_async_context(supervised("the manager", manager.work(), stop))
            ...
            await stop.wait()

`Stop` is the one reason to end: a signal, a closed lifeline, or a background task that died. A dead task ends the
process with an error, because a worker that does not watch over its models any more must not stay announced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

LIFELINE = "MUSTER_LIFELINE_FD"
"""Environment variable with the number of a pipe's read end: whoever holds the other end is our parent, and when it
closes, however the parent died, we end as on SIGTERM. So nothing stays behind."""

TWICE = 0.5
"""Seconds within which a signal that comes again is the same: `timeout` and systemd send it to a process and to its
group. Who has a lifeline may get it later still, from its parent, which has other means to end it at once."""


class Stop:
    """Asks a process to end, once, and remembers why."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._failure: BaseException | None = None
        self._signalled_at: float | None = None
        self.at_once: Callable[[], None] = lambda: None
        """What is still to be done when a second signal ends this process without any order."""

    def request(self, reason: str) -> None:
        """End in an orderly way. A second request changes nothing."""
        if not self._event.is_set():
            log.info("stopping: %s", reason)
            self._event.set()

    def fail(self, what: str, error: BaseException) -> None:
        """End because `what` broke; `wait` raises `error`, so that the process does not exit with success."""
        log.critical("%s failed, so this process ends: %r", what, error, exc_info=error)
        if self._failure is None:
            self._failure = error
        self._event.set()

    @property
    def requested(self) -> bool:
        """Is the end near?"""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return when an orderly end is asked for; raise what failed otherwise."""
        await self._event.wait()
        if self._failure is not None:
            raise self._failure

    def listen(self) -> None:
        """Stop on SIGTERM, SIGINT, SIGHUP (unless that is ignored, as `nohup` wants it), and when the lifeline of our
        parent closes. Asked again, we end at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._signalled, signal.Signals(number))
        lifeline = os.environ.get(LIFELINE)
        if lifeline is not None:
            loop.add_reader(int(lifeline), self._lifeline_closed, int(lifeline))

    def _signalled(self, number: signal.Signals) -> None:
        loop = asyncio.get_running_loop()
        if self._signalled_at is None:
            self._signalled_at = loop.time()
            self.request(number.name)
        elif loop.time() - self._signalled_at > TWICE and LIFELINE not in os.environ:
            log.warning("ending at once: a second %s", number.name)
            self.at_once()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _lifeline_closed(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        self.request("the process that started this one is gone")


def follow_lifeline(number: signal.Signals = signal.SIGTERM, after: float = 0.0) -> None:
    """A signal to ourselves when the lifeline of our parent closes, `after` so many seconds. A thread sees to it: for a
    program without an event loop, and for one whose loop may not turn any more."""
    lifeline = os.environ.get(LIFELINE)
    if lifeline is None:
        return

    def follow() -> None:
        closed = select.poll()  # to read might fail: an event loop that watches it, too, has it not block
        closed.register(int(lifeline), select.POLLIN)
        closed.poll()
        time.sleep(after)
        os.kill(os.getpid(), number)

    threading.Thread(target=follow, name="lifeline", daemon=True).start()


@contextlib.asynccontextmanager
async def supervised(what: str, work: Coroutine[Any, Any, None], stop: Stop) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` beside the block: if `work` ends first, the process ends; if the block ends first, it is cancelled."""
    task = asyncio.create_task(work, name=what)
    leaving = False

    def ended(task: asyncio.Task[None]) -> None:
        if leaving:
            return
        error = None if task.cancelled() else task.exception()
        stop.fail(what, error or RuntimeError(f"{what} ended by itself"))

    task.add_done_callback(ended)
    try:
        yield task
    finally:
        leaving = True
        task.cancel()
        await asyncio.wait([task])


class OneLine(logging.Formatter):
    """A line for each message, whatever it quotes: clients choose names, and could make up lines of their own or
    command the reader's terminal. A traceback follows in lines of its own.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """The line, with what cannot be printed as its escape sequence."""
        line = super().formatMessage(record)
        if line.isprintable():
            return line
        return "".join([char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in line])


def keep_standard_streams() -> None:
    """Let those that were closed when we were started lead nowhere.

    Else the next socket that is opened becomes one: lines of a log are sent to whoever is at its other end, and libuv
    ends the process when it is to close it. Children get them, too.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def run(
    serve: Callable[[Stop], Awaitable[None]],
    *,
    log_level: str = "info",
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run a program until it is asked to stop. The result is the exit status: 0 after an orderly end, 1 otherwise."""
    keep_standard_streams()
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=log_level.upper(), handlers=[to_stderr])

    async def main() -> None:
        stop = Stop()
        stop.listen()
        await serve(stop)

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
    except Exception as error:  # the last line of defence: one sentence instead of a traceback
        log.critical("%s", error, exc_info=log.isEnabledFor(logging.DEBUG))
        return 1
    return 0
