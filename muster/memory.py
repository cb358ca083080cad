"""Tells the allocator to keep the pages of large buffers, and asks it how much is in use.

Bodies pass through buffers of 256 kB and more. With its settings as they come, glibc gives their pages back to the
system again and again, only to be handed zeroed ones: 35 to 40 % of the cost of a body of 1 MB in the proxy, and as
much of a tensor of 600 kB in a worker. See mallopt(3).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3

KEPT = 64 * 2**20
"""Bytes of free memory at the top of the heap that are kept."""


def keep_pages() -> None:
    """Keep up to `KEPT` bytes of freed memory for the next body. Without glibc it does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_TRIM_THRESHOLD, KEPT)
    mallopt(_M_TOP_PAD, 4 * 2**20)
    mallopt(_M_MMAP_THRESHOLD, 4 * 2**20)


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip


_mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
if _mallinfo2 is not None:
    _mallinfo2.restype = _Mallinfo2


def in_use() -> int:
    """Bytes of memory that libraries and large objects have in use; 0 where nobody can tell (without glibc)."""
    if _mallinfo2 is None:
        return 0
    told = _mallinfo2()
    return int(told.uordblks + told.hblkhd)
