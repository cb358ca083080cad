"""`muster up` as a process: started in a directory, listened to line by line, and looked after with psutil."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
LOOK = 0.02
"""Seconds between two looks at what is waited for."""
LOOKS = 3000
"""A minute at least, for what takes seconds. Not a point in time: that a machine stood still is no failure."""
PATIENCE = LOOK * LOOKS


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for `condition`, looked at often; fail if it takes too long."""
    for _ in range(LOOKS):
        if condition():
            return
        time.sleep(LOOK)
    pytest.fail(f"waited in vain for {what}")


class Up:
    """A running `muster up`; the block's end kills whatever is left of it."""

    def __init__(self, directory: Path, *arguments: object) -> None:
        self.port = free_port()
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "muster", "up", "--port", str(self.port), *map(str, arguments)],
            cwd=directory, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._itself = psutil.Process(self._process.pid)
        self._seen: dict[int, psutil.Process] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (self._itself, *self.children()):
            if process.is_running():
                process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def children(self) -> list[psutil.Process]:
        """Every process that it ever had and that still runs."""
        if self._itself.is_running():
            for child in self._itself.children(recursive=True):
                self._seen.setdefault(child.pid, child)
        return [child for child in self._seen.values() if alive(child)]

    def child(self, module: str) -> psutil.Process:
        """One that runs `python -m MODULE`."""
        return next(child for child in self.children() if module in command_of(child))

    def says(self, text: str) -> None:
        """Wait until it says so."""
        try:
            until(lambda: any(text in line for line in self.lines), repr(text))
        except pytest.fail.Exception:
            running = [command_of(child) for child in (self._itself, *self.children()) if alive(child)]
            pytest.fail(f"it never said {text!r} but {self.lines}; running: {running}")

    def ends(self) -> int:
        """Wait until it has ended: its exit status."""
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def signal(self, number: signal.Signals) -> None:
        self.children()  # to know them when their parent is gone
        self._process.send_signal(number)


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing of one that ended a moment ago."""
    with suppress(psutil.NoSuchProcess):  # of which a zombie is a kind
        return process.cmdline()
    return []


def alive(process: psutil.Process) -> bool:
    """A zombie that waits for somebody to notice is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
