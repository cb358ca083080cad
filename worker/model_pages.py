"""A model's status and metadata as JSON, laid out as protobuf's own printer does it: one space for each level."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format

from worker.messages.schema import POOL
from worker.messages.tensors import SignatureDef
from worker.models.catalogue import VersionStatus
from worker.models.servable import Servable


def status_page(statuses: Sequence[VersionStatus]) -> bytes:
    """The states of these versions."""
    versions = [
        {
            "version": str(status.version),
            "state": status.stage.name,
            "status": {"error_code": status.code.name, "error_message": status.message},
        }
        for status in statuses
    ]
    return _printed({"model_version_status": versions})


def metadata_page(servable: Servable) -> bytes:
    """The signatures of `servable`: what goes in and what comes out."""
    definitions = {
        name: _shown(SignatureDef.FromString(signature.definition)) for name, signature in servable.signatures.items()
    }
    spec = {"name": servable.name, "signature_name": "", "version": str(servable.version)}
    return _printed({"model_spec": spec, "metadata": {"signature_def": {"signature_def": definitions}}})


def _shown(message: Any) -> Any:
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        descriptor_pool=POOL,
    )


def _printed(page: Any) -> bytes:
    return json.dumps(page, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
