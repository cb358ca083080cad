"""Requests that come with a model to warm it up: `assets.extra/tf_serving_warmup_requests` in a version's directory.

The file is a TFRecord file of PredictionLog messages. They are replayed before the version is served, and a file that
is not as it should be keeps the version from being served, as TensorFlow Serving does it; without this file or with an
empty one nothing happens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from worker.messages.serving import PredictionLog
from worker.models.servable import Replayed, Servable
from worker.models.tensorflow_quietly import tf
from worker.requests import Planned, plan_classify, plan_multi_inference, plan_predict, plan_regress
from worker.status import Code, StatusError, code_of_number

log = logging.getLogger(__name__)
FILE: Final = Path("assets.extra") / "tf_serving_warmup_requests"
MOST_RECORDS: Final = 1000


def replay(servable: Servable, directory: Path, times: int) -> Replayed | None:
    """Answer each of the requests in a version's `directory`, if there are any, so often. Raises StatusError."""
    file = directory / FILE
    if not file.is_file():
        return None
    started, count = time.monotonic(), 0
    for count, record in enumerate(_records(file), 1):
        if count > MOST_RECORDS:
            raise StatusError(
                Code.INVALID_ARGUMENT, f"Number of warmup records exceeds the maximum ({MOST_RECORDS}) at {file}"
            )
        try:
            recorded = PredictionLog.FromString(record)
        except DecodeError:
            raise StatusError(Code.INVALID_ARGUMENT, f"Failed to parse warmup record {count} from {file}") from None
        for _ in range(times):
            _answer(servable, recorded)
    seconds = time.monotonic() - started
    log.info("%r: replayed %d requests of %s in %.1f s", servable, count, file, seconds)
    return Replayed(count, seconds)


def _records(file: Path) -> Iterator[bytes]:
    try:
        yield from tf.compat.v1.io.tf_record_iterator(str(file))
    except tf.errors.DataLossError as error:
        message = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise StatusError(Code.DATA_LOSS, message) from error
    except tf.errors.OpError as error:
        raise StatusError(code_of_number(error.error_code), error.message) from error


def _answer(servable: Servable, recorded: Any) -> None:
    """Run a recorded request, and make its answer, for that can fail, too."""
    planned = _planned(servable, recorded)
    if planned is not None:
        planned.answer(servable.function(planned.inputs, planned.outputs)(*planned.arrays))


def _planned(servable: Servable, recorded: Any) -> Planned | None:
    kind = recorded.WhichOneof("log_type")
    match kind:
        case "predict_log":
            return plan_predict(servable, recorded.predict_log.request)
        case "classify_log":
            return plan_classify(servable, recorded.classify_log.request)
        case "regress_log":
            return plan_regress(servable, recorded.regress_log.request)
        case "multi_inference_log":
            return plan_multi_inference(servable, recorded.multi_inference_log.request)
        case None:
            return None
    number = recorded.DESCRIPTOR.fields_by_name[kind].number
    raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
