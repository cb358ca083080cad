"""The machine, measured beside the drills: how long did it keep programs waiting that were ready to go on?

    python -m tests.drills.machine --of PID --out FILE

A time that was too long says little of the proxy if the machine had no core to give meanwhile. The kernel counts for
each thread how long it could have run and did not; the meter looks every few milliseconds at those of the process PID
and of all that descend from it, and its own sleeps tell when the whole machine stood still. What a program computes or
waits for by itself is not in it, so slowness of ours can never hide there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

SLEEP = 0.002
LOOK = 0.004  # from one look at all threads to the next
CENSUS = 0.2  # from one search for new threads to the next
LEAST = 0.001  # waits below are nothing
WHOLE_MACHINE = 0


class Took(NamedTuple):
    """From when until when something took, and for how many seconds it may; times by the monotonic clock."""

    since: float
    until: float
    limit: float

    @property
    def seconds(self) -> float:
        return self.until - self.since


Times = TypeVar("Times", bound=tuple[Took, ...])


class StoodStill(AssertionError):
    """The machine is to blame for too much of what was measured, so it tells nothing."""


class Machine:
    """What the meter has found so far."""

    def __init__(self, file: Path) -> None:
        self._lines = file.open()
        self._waits: list[tuple[float, int, float]] = []  # when it was over, whose, how long
        self._unfinished = ""
        self._seen_until = 0.0
        self.note = ""
        """What a figure has to say of it: nothing, if no try was made again."""

    def close(self) -> None:
        self._lines.close()

    def waited(self, since: float, until: float) -> float:
        """The longest that one thread was kept waiting in that time, in seconds, all its waits together."""
        deadline = time.monotonic() + 10
        while self._read() < until + 2 * LOOK:
            assert time.monotonic() < deadline, "the meter has ended"
            time.sleep(LOOK)
        sums: Counter[int] = Counter()
        first = bisect_left(self._waits, (since, 0, 0.0))
        for _, whose, seconds in self._waits[first : bisect_left(self._waits, (until + 2 * LOOK, 0, 0.0))]:
            sums[whose] += seconds  # type: ignore[assignment]
        return max(sums.values(), default=0.0)

    def to_blame(self, took: Took) -> bool:
        """Was it too long, and did the machine keep a program waiting for half of what is allowed, or more?"""
        return took.seconds > took.limit and self.waited(took.since, took.until) >= took.limit / 2

    def tries(self, count: int, once: Callable[[int], Times]) -> list[Times]:
        """The results of so many tries. One is made again if the machine is to blame for it; a quarter of them at most,
        so that a machine which is too busy to tell anything fails the drill."""
        kept: list[Times] = []
        spare = max(3, count // 4)
        again = 0
        while len(kept) < count:
            try:
                times = once(len(kept) + again)
                spoiled = "; ".join(f"{took.seconds:.3f} s" for took in times if self.to_blame(took))
            except StoodStill as error:
                if again == spare:
                    raise
                spoiled = str(error)
            if spoiled and again < spare:
                again += 1
                self.note = f"; {again} made again, for the machine stood still"
                print(f"made again: {spoiled}")
            else:
                kept.append(times)
        return kept

    def fair(self, times: Collection[Took]) -> list[float]:
        """How many seconds each of many took, without those for which the machine is to blame: a twentieth at most."""
        kept = [took.seconds for took in times if not self.to_blame(took)]
        aside = len(times) - len(kept)
        if aside > len(times) / 20:
            raise StoodStill(f"the machine stood still during {aside} of {len(times)} requests")
        if aside:
            self.note = f"; {aside} set aside, the machine stood still"
        return kept

    def _read(self) -> float:
        *lines, self._unfinished = (self._unfinished + self._lines.read()).split("\n")
        for line in lines:
            at, whose, seconds = line.split()
            self._seen_until = float(at)
            if float(seconds):
                self._waits.append((float(at), int(whose), float(seconds)))
        return self._seen_until


class _Thread:
    """One that is looked at."""

    def __init__(self, process: int, thread: int) -> None:
        self._file = os.open(f"/proc/{process}/task/{thread}/schedstat", os.O_RDONLY)
        self._waited = self._read()

    def _read(self) -> int:
        return int(os.pread(self._file, 80, 0).split()[1])

    def waited(self) -> float:
        """Seconds since it was last asked."""
        before, self._waited = self._waited, self._read()
        return (self._waited - before) / 1e9

    def close(self) -> None:
        os.close(self._file)


def family(process: int) -> Iterator[tuple[int, int]]:
    """All threads of a process and of those that descend from it."""
    try:
        threads = os.listdir(f"/proc/{process}/task")  # noqa: PTH208
    except OSError:  # it has just ended
        return
    for thread in threads:
        yield process, int(thread)
        try:
            children = Path(f"/proc/{process}/task/{thread}/children").read_text()
        except OSError:
            continue
        for child in children.split():
            yield from family(int(child))


class Meter:
    """Looks at the threads and writes down each wait; a look that found none is a line with a zero."""

    def __init__(self, root: int, lines: TextIO) -> None:
        self._root = root
        self._lines = lines
        self._threads: dict[tuple[int, int], _Thread] = {}

    def run(self) -> None:
        """Measure until killed."""
        census = look = 0.0
        while True:
            asleep = time.monotonic()
            time.sleep(SLEEP)
            now = time.monotonic()
            if (late := now - asleep - SLEEP) >= LEAST:
                self._write(now, WHOLE_MACHINE, late)
            if now - look >= LOOK:
                look = now
                self._look(now)
            if now - census >= CENSUS:
                census = now
                self._count()

    def _write(self, now: float, whose: int, seconds: float) -> None:
        self._lines.write(f"{now:.6f} {whose} {seconds:.6f}\n")

    def _look(self, now: float) -> None:
        for key, thread in list(self._threads.items()):
            try:
                waited = thread.waited()
            except OSError:  # it has ended
                self._threads.pop(key).close()
                continue
            if waited >= LEAST:
                self._write(now, key[1], waited)
        self._write(now, WHOLE_MACHINE, 0)

    def _count(self) -> None:
        for key in family(self._root):
            if key not in self._threads and key[0] != os.getpid():
                with suppress(OSError):  # it has just ended
                    self._threads[key] = _Thread(*key)


def main() -> int:
    """Measure until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--of", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with options.out.open("w", buffering=1) as lines:
        Meter(options.of, lines).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
