"""The words of the cluster's protocols, each written once: paths, header names, ports, Consul's names.

Both ends import them from here, so a server and its client cannot drift apart.
"""

from __future__ import annotations

from typing import Final

# Ports
PROXY_PORT: Final = 12480
EMBEDDED_REGISTRY_PORT: Final = 12481
PROXY_GRPC_PORT: Final = 12482
CONSUL_PORT: Final = 8500

# gRPC
_MOST_PENDING: Final = 16_384
GRPC_BURSTS: Final = (
    ("grpc.server.max_pending_requests", _MOST_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
)
"""Options of every server: how many calls may have come and not been looked at. gRPC ends what is beyond that, and its
client reads CANCELLED as if it had left by itself; left alone, gRPC does so from a thousand on."""
GRPC_HEALTH_NAMES: Final = frozenset(
    (
        "", "ModelService", "PredictionService", "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    )
)  # fmt: skip
"""What `grpc.health.v1.Health` may be asked for. The short names are TensorFlow Serving's; the empty one is the whole
server."""

# Paths
CLASSIFY: Final = "/classify"
MODELS: Final = "/v1/models"
P2P: Final = "/p2p"
WORKERS: Final = "/workers"
HEALTHZ: Final = "/healthz"
READYZ: Final = "/readyz"
METRICS: Final = "/metrics"

# Headers
SERVED_BY: Final = "X-Served-By"
REQUEST_ID: Final = "X-Request-Id"
SERVER_TIMING: Final = "Server-Timing"

# The multipart field of an image, as in `curl -F data=@image.jpg`
FILE_FIELD: Final = "data"

# Consul: the service everybody registers under, and the members of its record that are ours
SERVICE: Final = "worker"
TAG_MODEL: Final = "model:"
TAG_VERSION: Final = "version:"
META_GRPC_PORT: Final = "grpc_port"
META_MODELS: Final = "models"
META_VERSION: Final = "version"
META_REPLAY_SAFE: Final = "replay_safe"
META_CAPACITY: Final = "capacity"
