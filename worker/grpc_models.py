"""`tensorflow.serving.ModelService`: in which state a model's versions are, and which models there shall be.

States can be asked for while models are still being loaded: that is when people want to know.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol

import grpc

from muster.errors import UnknownModel
from worker.grpc_calls import parse, unary_methods
from worker.messages import serving
from worker.metrics import Metrics
from worker.models.catalogue import Catalogue
from worker.status import Code, StatusError

log = logging.getLogger(__name__)
SERVICE: Final = "tensorflow.serving.ModelService"


NAMED: Final = 100
"""So many models at most are named in the log when a client lists them."""


class Reloads(Protocol):
    """Who changes the models: see `worker.models.manager`."""

    def reload(self, config: Any) -> Awaitable[None]:
        """Serve what the ModelServerConfig lists, and nothing else. Raises StatusError."""


class ModelService:
    """The service. `handler` is what a gRPC server takes."""

    def __init__(self, catalogue: Catalogue, manager: Reloads, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._manager = manager
        self._metrics = metrics
        self.handler: grpc.GenericRpcHandler = unary_methods(
            SERVICE, {"GetModelStatus": self._status, "HandleReloadConfigRequest": self._reload}
        )

    async def _status(self, data: bytes, _: Any) -> bytes:
        request = parse(serving.GetModelStatusRequest, data)
        if not request.HasField("model_spec"):
            raise StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
        spec = request.model_spec
        statuses = self._catalogue.statuses(spec.name)
        if spec.HasField("version"):
            statuses = [status for status in statuses if status.version == spec.version.value]
            if not statuses:
                raise UnknownModel(f"Could not find version {spec.version.value} of model {spec.name}")
        if not statuses:
            raise UnknownModel(f"Could not find any versions of model {spec.name}")
        response = serving.GetModelStatusResponse()
        for status in statuses:
            told = response.model_version_status.add(version=status.version, state=status.stage.value)
            told.status.error_code = status.code.number
            told.status.error_message = status.message
        answer: bytes = response.SerializeToString()
        return answer

    async def _reload(self, data: bytes, _: Any) -> bytes:
        request = parse(serving.ReloadConfigRequest, data)
        value_of = self._metrics.serving.value_of
        before = {name: value for name in request.metric_names if (value := value_of(name)) is not None}
        names = [config.name for config in request.config.model_config_list.config[: NAMED + 1]]
        log.info("a client asks for these models, and no others: %s", _listed(names) or "none")
        await self._manager.reload(request.config)
        response = serving.ReloadConfigResponse()
        response.status.error_code = Code.OK.number
        for name, value in before.items():
            response.metric.add(name=name, int64_value_increase=(value_of(name) or 0) - value)
        answer: bytes = response.SerializeToString()
        return answer


def _listed(names: Sequence[str]) -> str:
    return ", ".join([name[:NAMED] for name in names[:NAMED]]) + (", …" if len(names) > NAMED else "")
