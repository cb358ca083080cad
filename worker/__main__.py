"""`python -m worker`: one worker of the cluster, or a drop-in for tensorflow_model_server."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

import uvloop

from muster import lifetime
from muster.errors import ClusterError
from muster.lifetime import Stop
from muster.memory import keep_pages
from muster.open_files import allow
from worker import flags
from worker.messages.config import BadConfig
from worker.serve import serve
from worker.serving_flags import FAILED
from worker.settings import WorkerSettings
from worker.status import Code, StatusError, code_of

MOST_CONNECTIONS: Final = 65_536
SHARE: Final = 0.001
"""Seconds for which a thread may keep the interpreter while others want it. A call needs it many times: with the
usual five milliseconds, and an event loop that is kept busy by whoever floods it, that took more than a second."""


def main() -> int:
    """Run the worker. Exit status 0 after an orderly end, 1 if it failed, 2 for a mistake in the settings.

    A drop-in has 255 for everything that keeps it from starting.
    """
    allow(MOST_CONNECTIONS)
    keep_pages()
    sys.setswitchinterval(SHARE)
    try:
        settings = flags.read(sys.argv[1:], os.environ)
    except StatusError as error:
        return _cannot_start(error)
    return _run_drop_in(settings) if settings.drop_in else _run(settings)


def _run(settings: WorkerSettings) -> int:
    async def program(stop: Stop) -> None:
        await serve(settings, stop)

    return lifetime.run(program, log_level=settings.log_level, loop_factory=uvloop.new_event_loop)


def _run_drop_in(settings: WorkerSettings) -> int:
    refusals: list[Exception] = []

    async def program(stop: Stop) -> None:
        try:
            await serve(settings, stop)
        except Exception as error:
            if stop.requested:  # it had started: something broke later
                raise
            refusals.append(error)

    status = lifetime.run(program, log_level=settings.log_level, loop_factory=uvloop.new_event_loop)
    return _cannot_start(refusals[0]) if refusals else status


def _cannot_start(error: Exception) -> int:
    """Say why in the words that scripts look for; the result is the exit status."""
    sentence = str(error)
    if isinstance(error, BadConfig):
        sys.stderr.write(f"Error parsing text-format {error.kind}: {sentence}\n")
        sentence = f"Invalid protobuf file: '{error.source}'"
    sys.stdout.write(f"Failed to start server. Error: {_code(error).name}: {sentence}\n")
    return FAILED


def _code(error: Exception) -> Code:
    match error:
        case ClusterError():
            return code_of(error)
        case ValueError():
            return Code.INVALID_ARGUMENT
        case FileNotFoundError():
            return Code.NOT_FOUND
        case _:
            return Code.UNKNOWN


if __name__ == "__main__":
    status = main()
    # Everything that has an end has ended. To unload TensorFlow in good order would take another second, and cannot be
    # done at all while a thread that was left behind still loads a model.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
