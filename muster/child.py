"""One process of the local cluster: started, listened to, and ended for certain. Used by `muster.local`.

A child lives in a session of its own, so Ctrl-C on the terminal reaches only us and we decide the order of the end; and
it holds the read end of our lifeline, so it ends by itself if we are killed.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from muster.lifetime import LIFELINE

GRACE: Final = 10.0
"""Seconds from the request to end until a child is killed."""
LONGEST_LINE: Final = 2**20

_LOGGED = re.compile(r"\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+: (.*)")
_REFUSED = re.compile(r"[^:]+: error: (.*)")  # what argparse says before it exits


@dataclass(frozen=True, slots=True)
class Line:
    """What a child wrote: the line as it is, and if it was logged its level and its message (else both empty)."""

    name: str
    text: str
    level: str
    message: str


@dataclass(slots=True)
class Backoff:
    """Pauses before a start: longer each time while the child keeps dying young. All in seconds."""

    first: float = 0.2
    longest: float = 5.0
    settled: float = 10.0
    _next: float = 0.0

    def after(self, lived: float) -> float:
        """The pause after a life of `lived` seconds."""
        pause = self.first if lived >= self.settled else max(self.first, self._next)
        self._next = min(2 * pause, self.longest)
        return pause


class Child:
    """`python -m ARGUMENTS…` under a name; `hear` gets every line that it writes."""

    def __init__(self, name: str, arguments: list[str], lifeline: int, hear: Callable[[Line], object]) -> None:
        self.name = name
        self.why = ""
        """The last thing that the last run said, above all if it was critical."""
        self._arguments = arguments
        self._lifeline = lifeline
        self._hear = hear
        self._process: Process | None = None

    async def run(self) -> int:
        """Run it once: its exit status, or minus the number of the signal that killed it. Cancelling this ends it."""
        self.why = ""
        process = self._process = await asyncio.create_subprocess_exec(
            # -P: a folder `proxy` where the user happens to stand is not to be taken for ours.
            sys.executable, "-P", "-m", *self._arguments,
            stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, limit=LONGEST_LINE,
            start_new_session=True, pass_fds=(self._lifeline,), env=environment(self._lifeline),
        )  # fmt: skip
        listening = asyncio.create_task(self._listen(process))
        try:
            status = await process.wait()
            await asyncio.wait([listening], timeout=1)  # what it still had to say
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            listening.cancel()
            self._process = None
        return status

    def kill(self) -> None:
        """End it now, whatever it is doing."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        critical = False
        while True:
            try:
                text = (await process.stdout.readline()).decode(errors="replace")
            except ValueError:  # longer than LONGEST_LINE: nothing that anybody meant to read
                continue
            if not text:
                return
            line = _line(self.name, text.rstrip())
            if line.level == "CRITICAL" or (line.text and not critical):
                self.why = line.message or line.text
            critical = critical or line.level == "CRITICAL"
            self._hear(line)


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError, TimeoutError):
        process.terminate()
        async with asyncio.timeout(GRACE):
            await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _line(name: str, text: str) -> Line:
    if logged := _LOGGED.fullmatch(text):
        return Line(name, text, logged[1], logged[2])
    if refused := _REFUSED.fullmatch(text):
        return Line(name, text, "CRITICAL", refused[1])
    return Line(name, text, "", "")


def environment(lifeline: int) -> dict[str, str]:
    """Ours, with the lifeline, and with the place that this code was imported from, whether it is installed or not."""
    home = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return os.environ | {LIFELINE: str(lifeline), "PYTHONPATH": path}


def ending(status: int) -> str:
    """How a process ended, in words."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
