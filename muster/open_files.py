"""How many files may be open: each connection is one, and the usual 1,024 are used up by a thousand idle clients."""

from __future__ import annotations

import resource


def allow(wanted: int) -> int:
    """Have the system allow so many open files, or as many as it will; the result is how many there may be, at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
