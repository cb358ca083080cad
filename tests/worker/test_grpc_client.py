"""Wire compatibility: TensorFlow Serving's own generated client, in a process of its own, against this worker."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.serving_api import with_serving_api
from tests.worker import serving_models
from tests.worker.grpc_doors import open_grpc
from worker.models.catalogue import Catalogue
from worker.models.finding import Found
from worker.models.loading import load
from worker.models.options import LoadOptions
from worker.models.tensorflow_quietly import tf

TYPES = (
    tf.float32, tf.float64, tf.int32, tf.uint8, tf.int64, tf.bool, tf.string, tf.complex64, tf.float16, tf.bfloat16,
    tf.uint64,
)  # fmt: skip


async def test_the_client_that_users_have_understands_every_answer(tmp_path: Path) -> None:
    saved = {
        "half_plus_two": serving_models.save_half_plus_two(tmp_path / "half_plus_two" / "1"),
        "examples": serving_models.save_examples(tmp_path / "examples" / "1"),
        "types": serving_models.save_identities(tmp_path / "types" / "1", *TYPES),
    }
    catalogue = Catalogue([load(Found(name, 1, path), LoadOptions(max_batch=4)) for name, path in saved.items()])
    async with open_grpc(catalogue) as doors:
        client = await asyncio.create_subprocess_exec(
            sys.executable, Path(__file__).with_name("serving_client.py"), f"127.0.0.1:{doors.port}",
            env=with_serving_api(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await client.communicate()
        assert client.returncode == 0, err.decode()
        assert json.loads(out) == {
            "predict": [[[2.5], [3.0], [4.5]], "half_plus_two", 1, "serving_default"],
            "types": {dtype.name: True for dtype in TYPES},
            "classify": [[["cat", 0.75], ["other", 0.25]]] * 2,
            "regress": [0.75],
            "multi_inference": [0.75, "cat"],
            "metadata": ["x:0", [-1, 1], "tensorflow/serving/predict"],
            "status": [1, "AVAILABLE", 0],
            "reload": 0,
            "refused": ["NOT_FOUND", "Servable not found for request: Latest(nowhere)"],
        }
        (config,) = doors.manager.configs
        (model,) = config.model_config_list.config
        assert (model.name, model.base_path, model.model_platform) == ("m", "/models/m", "tensorflow")
        assert list(model.model_version_policy.specific.versions) == [1, 42]
        assert dict(model.version_labels) == {"stable": 42}
