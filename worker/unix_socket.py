"""The file of a Unix socket. A newer server may take its name over at any moment, and then it is the newer one's.

gRPC removes the name that it was given when it ends, whosever it is by then. So it is given a name that nobody else
knows, and the socket is moved from there to the name that clients know: whoever connects finds one server or the other.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager


def provisional(path: str) -> str:
    """A new name in the directory of `path`, to listen at. Raises OSError if `path` is taken by what is no socket."""
    try:
        taken = not stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        taken = False
    if taken:
        raise OSError(f"cannot listen for gRPC on the Unix socket {path}: there is something that is no socket")
    return os.path.join(os.path.dirname(path), f".{secrets.token_hex(3)}")  # noqa: PTH118, PTH120  # as short as can be


@contextmanager
def published(name: str, path: str) -> Iterator[None]:
    """The socket that listens at `name` is at `path` while the block lasts, instead of an older one."""
    os.replace(name, path)  # noqa: PTH105
    ours = _identity(path)
    try:
        yield
    finally:
        if _identity(path) == ours:
            os.unlink(path)  # noqa: PTH108


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
