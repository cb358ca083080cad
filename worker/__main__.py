"""`python -m worker`: one worker of the cluster."""

from __future__ import annotations

import functools
import logging
import os
import sys

import uvloop

from muster import lifetime
from muster.settings import load
from worker.serve import serve
from worker.settings import WorkerSettings


def main() -> int:
    """Run the worker. Exit status 0 after an orderly end, 1 if it failed, 2 for a mistake in the settings."""
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
