"""The messages of gRPC's health service as classes: `health.proto` lists their fields."""

from __future__ import annotations

from typing import Final

from worker.messages.schema import message_class

HealthCheckRequest: Final = message_class("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse: Final = message_class("grpc.health.v1.HealthCheckResponse")
