"""`python -m worker`: one worker of the cluster."""

from __future__ import annotations

import functools
import logging
import os
import resource
import sys
from typing import Final

import uvloop

from muster import lifetime
from muster.settings import load
from worker.serve import serve
from worker.settings import WorkerSettings

MOST_CONNECTIONS: Final = 65_536


def _allow_many_connections() -> None:
    """Have as many open files as we may: the usual 1,024 are used up by a thousand clients that only hold the line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, MOST_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main() -> int:
    """Run the worker. Exit status 0 after an orderly end, 1 if it failed, 2 for a mistake in the settings."""
    _allow_many_connections()
    settings = load(WorkerSettings, sys.argv[1:], os.environ, "WORKER", "python -m worker")
    return lifetime.run(
        functools.partial(serve, settings), log_level=settings.log_level, loop_factory=uvloop.new_event_loop
    )


if __name__ == "__main__":
    status = main()
    # Everything that has an end has ended. To unload TensorFlow in good order would take another second, and cannot be
    # done at all while a thread that was left behind still loads a model.
    logging.shutdown()
    os._exit(status)
