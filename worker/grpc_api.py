"""What this worker answers over gRPC: the list of its services."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from worker.grpc_health import HealthService
from worker.grpc_models import ModelService, Reloads
from worker.grpc_patience import Patient
from worker.grpc_predictions import PredictionService
from worker.grpc_profiler import ProfilerService
from worker.inference import Inference
from worker.metrics import Metrics
from worker.requests import Rules
from worker.settings import WorkerSettings
from worker.state import State


class GrpcApi:
    """The services as `worker.grpc_server` takes them.

    As a drop-in a worker has the services that its flags ask for. In a cluster it always says how healthy it is, and
    nobody can profile it: a profile is written where the client says.
    """

    def __init__(
        self, settings: WorkerSettings, state: State, inference: Inference, manager: Reloads, metrics: Metrics
    ) -> None:
        rules = Rules(
            settings.enable_signature_method_name_check,
            settings.enable_serialization_as_tensor_content,
            settings.max_fill,
        )
        self._health = HealthService(state, settings.drop_in)
        self._profiler = ProfilerService()
        handlers = [
            PredictionService(state, inference, metrics, rules).handler,
            ModelService(state.models, manager, metrics).handler,
        ]
        if settings.enable_grpc_healthcheck_service or not settings.drop_in:
            handlers.append(self._health.handler)
        if settings.enable_profiler and settings.drop_in:
            handlers.append(self._profiler.handler)
        self.handlers: Sequence[grpc.GenericRpcHandler] = [Patient(handlers, settings.body_timeout)]

    def finish(self) -> None:
        """The server is about to close: calls without an end of their own end."""
        self._health.close()

    async def close(self) -> None:
        """The server is closed."""
        await self._profiler.close()
