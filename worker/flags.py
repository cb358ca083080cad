"""The command line, in one of two languages: this project's, or tensorflow_model_server's.

Any of the flags in `TELLING` says that tensorflow_model_server is meant; `worker.serving_flags` reads such a line.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import muster
from muster.settings import load
from worker import serving_flags
from worker.settings import WorkerSettings

PREFIX = "WORKER"
PROGRAM = "python -m worker"
TELLING = frozenset({"model_base_path", "model_config_file", "model_name", "rest_api_port", "grpc_socket_path"})
_TELLING_VARIABLES = ("WORKER_MODEL_BASE_PATH", "WORKER_MODEL_CONFIG_FILE")


def read(argv: Sequence[str], environ: Mapping[str, str]) -> WorkerSettings:
    """The settings. A mistake ends the process: with status 2, or with 255 where tensorflow_model_server is meant.

    Raises StatusError for settings that tensorflow_model_server would not start with.
    """
    names = {serving_flags.name_of(word) for word in argv}
    if "version" in names:
        sys.stdout.write(f"TensorFlow ModelServer: muster {muster.__version__}\nTensorFlow Library: {_tensorflow()}\n")
        sys.exit(0)
    if names & TELLING or any(environ.get(variable) for variable in _TELLING_VARIABLES):
        return serving_flags.read(argv, environ, PREFIX, PROGRAM)
    return load(WorkerSettings, argv, environ, PREFIX, PROGRAM)


def _tensorflow() -> str:
    """The version that is installed. To import it in order to ask would take seconds."""
    for package in ("tensorflow-cpu", "tensorflow"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "none"
