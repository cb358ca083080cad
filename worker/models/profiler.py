"""TensorFlow's own profiler server, for `worker.grpc_profiler`, which forwards to it."""

from __future__ import annotations

import socket

from worker.models.tensorflow_quietly import tf


def start_profiler() -> int:
    """Start the profiler server of this process and return its port. It cannot be stopped, nor started twice.

    TensorFlow has it listen on all addresses and cannot take a port of the system's choice.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    tf.profiler.experimental.server.start(port)
    return port
