"""gRPC, which must be told before it is imported not to write to stderr: what it has to say reaches us as errors."""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

__all__ = ["grpc"]
