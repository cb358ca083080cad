"""TensorFlow Serving's own Python client, as its users have it: fetched for tests, and never imported by this process.

Its generated messages would clash with none of ours, but it says that it needs the whole `tensorflow` wheel, so it is
not installed: programs that want it get its directory on their PYTHONPATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
VERSION = "2.21.0"
CACHE = PROJECT / ".cache" / f"tensorflow-serving-api-{VERSION}"


def find_serving_api() -> Path:
    """The directory to import `tensorflow_serving` from, fetched once. Skips the test without one; in CI it fails."""
    if CACHE.is_dir():
        return CACHE
    with tempfile.TemporaryDirectory() as work:
        fetched = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work,
             f"tensorflow-serving-api=={VERSION}"],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if fetched.returncode != 0:
            reason = f"TensorFlow Serving's client could not be fetched: {fetched.stderr.strip()}"
            if os.environ.get("CI"):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        (wheel,) = Path(work).glob("*.whl")
        CACHE.parent.mkdir(exist_ok=True)
        unpacked = Path(tempfile.mkdtemp(dir=CACHE.parent))
        with zipfile.ZipFile(wheel) as files:
            files.extractall(unpacked)
    try:
        unpacked.rename(CACHE)  # in one step, so that an interrupted run leaves nothing that looks finished
    except OSError:  # somebody else was faster
        if not CACHE.is_dir():
            raise
    return CACHE


def with_serving_api() -> dict[str, str]:
    """The environment of a program that imports `tensorflow_serving`."""
    return {**os.environ, "PYTHONPATH": str(find_serving_api()), "TF_CPP_MIN_LOG_LEVEL": "2"}
