"""How to load a model beside people who are being served: in small bites of the interpreter, and with what is left of
the processor.

Loading takes the interpreter's lock for a while and then computes without it for much longer, in warming up. The first
part is cut into small bites: whoever has a request gets the lock at once, not after the usual five milliseconds. The
second part steps back behind every other thread. Not the first, though: a thread that is hardly ever run must not hold
what the others wait for.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

BITE: Final = 0.0005
"""Seconds for which a thread may keep the interpreter while others want it."""
NICENESS: Final = 10
_lock = threading.Lock()
_before: list[float] = []


@contextmanager
def small_bites() -> Iterator[None]:
    """Nobody keeps the interpreter for long while the block lasts."""
    with _lock:
        _before.append(sys.getswitchinterval())
        sys.setswitchinterval(BITE)
    try:
        yield
    finally:
        with _lock:
            sys.setswitchinterval(_before.pop())  # the last to end puts back what the first one found


def step_back() -> None:
    """Let every other thread compute before this one, for as long as it lives: no thread can step forward again."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
