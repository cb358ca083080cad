"""TensorFlow, imported without its chatter.

Import `tf` from here and nowhere else: the environment must be set before the first import. What the operator has set
already stays as it is, so `TF_CPP_MIN_LOG_LEVEL=0` brings the chatter back. Errors reach us as exceptions; what
TensorFlow logs of them are complaints about other people's pictures, without end. It also writes some lines before it
looks at that variable, straight to the process's stderr; they are cut off by pointing that elsewhere for the import.

Its kernels made of oneDNN are left out, because they end the whole process when a tensor has too few dimensions for a
convolution, which any client can send. The others say what is wrong, and take as long for one image; for large batches
up to a tenth longer, for which `TF_ENABLE_ONEDNN_OPTS=1` has them back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


_chatter_wanted = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
with contextlib.nullcontext() if _chatter_wanted else _stderr_closed():
    import tensorflow as tf

# TensorFlow announces that it will leave TensorFlow Lite to another package; what it calls 2.20 has come and gone.
warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated")
if not _chatter_wanted:
    logging.getLogger("tensorflow").setLevel(logging.ERROR)

__all__ = ["tf"]
