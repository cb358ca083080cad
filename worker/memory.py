"""Memory of models: given back to the system when one goes, and left alone by the garbage collector while it stays.

TensorFlow brings hundreds of thousands of objects that live as long as the process. Every full collection would walk
them all, with the whole program standing still for a tenth of a second; so they are set aside once.
"""

from __future__ import annotations

import ctypes
import gc


def set_aside() -> None:
    """Everything that there is now stays for ever: the collector need not look at it again."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Free what a closed model left in circles, and give free pages back to the system (with glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
