"""Has a directory been copied to its end? It has when nothing in it has changed for a while.

No format of models says which files belong to it, so a copy under way cannot be told by looking once. Its files are
new, though, and go on changing. Files whose inodes are all older than the time to settle are finished at once: who
moves a finished directory into place need not wait. Blocking; for one thread at a time.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

Fingerprint: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of modification and inode of everything in a tree, in order."""
LARGEST: Final = 100_000
"""So many files and directories are looked at. No model has more; a link to all of a disk does not lead us astray."""


class Settling:
    """Knows since when each path has been as it is."""

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._wall = wall
        self._since: dict[Path, tuple[Fingerprint, float]] = {}
        self._moving: set[Path] = set()

    def settled(self, path: Path) -> Fingerprint | None:
        """What is at `path`, if it is there and has settled."""
        seen, newest = _look(path)
        if not seen:
            return None
        now = self._clock()
        before, since = self._since.get(path, (None, now))
        if before != seen:
            since = now
            if before is not None:
                self._moving.add(path)
        self._since[path] = (seen, since)
        # An inode from the future comes from another machine's clock, and its age says nothing.
        age = self._wall() - newest
        if now - since < self._seconds and age < self._seconds:
            return None
        self._moving.discard(path)
        return seen

    def moving(self, path: Path) -> bool:
        """Was it seen to change since it was last settled? What was not is probably finished, and only young."""
        return path in self._moving

    def forget(self, paths: set[Path]) -> None:
        """Remember only these paths."""
        self._since = {path: known for path, known in self._since.items() if path in paths}
        self._moving &= paths


def fingerprint(path: Path) -> Fingerprint:
    """What is at `path` now."""
    return _look(path)[0]


def stranger(path: Path) -> str | None:
    """Something at `path` that is neither a file nor a directory, such as a pipe, which a reader might wait for
    without end; None if there is no such thing.
    """
    for name, status in islice(_walk(str(path), "", set()), LARGEST):
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return f"{path}{name}"
    return None


def _look(path: Path) -> tuple[Fingerprint, float]:
    """What is at `path`, and when the youngest of it came or changed.

    For what is inside, the inode's own time counts, which nobody can set: copies may keep the dates of their originals.
    For `path` itself it does not, for moving it into place changes that.
    """
    entries = []
    newest = 0.0
    for name, status in islice(_walk(str(path), "", set()), LARGEST):
        kept = stat.S_ISDIR(status.st_mode)
        entries.append((name, 0 if kept else status.st_size, status.st_mtime_ns, status.st_ino))
        newest = max(newest, status.st_mtime if name == "" else status.st_ctime)
    return tuple(sorted(entries)), newest


def _walk(path: str, name: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    """All of a tree, each directory once, for symbolic links may lead in circles. In order, so that it is the same
    again when nothing has changed.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # a tree may be large: no object for each of its files
        yield name, status
        place = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode) and place not in visited:
            visited.add(place)
            for child in sorted(os.listdir(path)):  # noqa: PTH208
                yield from _walk(f"{path}/{child}", f"{name}/{child}", visited)
    except OSError:  # it went while we looked, or may not be read; what else there is will differ when it is back
        return
