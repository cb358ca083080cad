"""gRPC, which must be told before it is imported not to write to stderr: what it has to say reaches us as errors.

But for one thing: of an answer whose client has left it writes a traceback to the log, as if a program had failed.
"""

from __future__ import annotations

import logging
import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

__all__ = ["grpc"]


def _is_news(record: logging.LogRecord) -> bool:
    return not record.exc_info or getattr(record.exc_info[0], "__name__", "") != "ExecuteBatchError"


logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
