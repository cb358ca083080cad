"""The settings of one worker, each a flag (`--max-body`) and an environment variable (`WORKER_MAX_BODY`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from muster import wire
from muster.settings import log_level, port, setting, size
from worker.models.preprocessing import Hints, Numbers, divisor, numbers, side
from worker.serving_settings import ServingSettings


def _numbers(text: str) -> Numbers:
    return numbers([float(part) for part in text.split(",")]) if "," in text else numbers(float(text))


def _divisor(text: str) -> Numbers:
    return divisor(list(_numbers(text)))


def _side(text: str) -> int:
    return side(int(text) if text.isdecimal() else text)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _transition(text: str) -> str:
    if text not in ("availability", "resource"):
        raise ValueError(f"{text!r} is neither availability nor resource")
    return text


@dataclass(frozen=True, slots=True)
class WorkerSettings(ServingSettings):
    """One worker of the cluster: loads models, announces itself, serves them.

    It also takes tensorflow_model_server's flags. With --model_base_path or --model_config_file it behaves as that
    program does: --port is for gRPC, --rest_api_port for HTTP, and it announces itself only where --registry says.
    """

    model: str | None = setting(
        None, "what to serve: a directory of models, one model's or version's directory, a .keras or .pb file; "
        "./models if neither this nor --graph is given"
    )  # fmt: skip
    graph: str | None = setting(None, "a frozen graph (.pb) to serve, instead of --model")
    labels: str | None = setting(None, "file with one label per line, in the order of the model's outputs")
    input_layer: str | None = setting(None, "layer (frozen graph) or signature input that takes the image")
    output_layer: str | None = setting(None, "layer (frozen graph) or signature output that gives the scores")
    input_height: int | None = setting(None, "height to bring images to", unit="pixels", parse=_side)
    input_width: int | None = setting(None, "width to bring images to", unit="pixels", parse=_side)
    input_mean: Numbers | None = setting(
        None, "subtracted from each pixel (0 to 255); one number or R,G,B", parse=_numbers
    )  # fmt: skip
    input_std: Numbers | None = setting(
        None, "each pixel is divided by this after that; one number or R,G,B", parse=_divisor
    )  # fmt: skip
    logits: bool = setting(False, "the model's scores are logits: turn them into probabilities")

    host: str = setting("0.0.0.0", "address to listen on")  # noqa: S104  # other machines are meant to come
    grpc: bool = setting(True, "serve gRPC, too")
    grpc_port: int = setting(0, "port for gRPC; 0 takes a free one", parse=port)
    port: int = setting(0, "port for HTTP; 0 takes a free one", parse=port)
    advertise: str = setting("", "HOST[:PORT] that others reach this worker at, if not where it listens")
    registry: str = setting("consul", "where to announce: consul[://HOST:PORT], embedded[://HOST:PORT], static://…")
    service: str = setting(wire.SERVICE, "name of the service to announce under")

    settle_time: float = setting(
        0.3, "a version is loaded when its files have not changed for so long", unit="seconds"
    )  # fmt: skip
    version_transition: str = setting(
        "availability", "availability loads a new version before the old one leaves; resource unloads the old one "
        "first and needs no memory for two", parse=_transition
    )  # fmt: skip

    max_body: int = setting(32 * 2**20, "largest body of a request", unit="bytes", parse=size)
    max_pixels: int = setting(50_000_000, "largest image", unit="pixels", parse=_at_least_one)
    max_fill: int = setting(
        32 * 2**20, "largest tensor of a gRPC request that repeats its last value to fill its shape, and most that a "
        "context repeated for each example takes", unit="bytes", parse=size
    )  # fmt: skip
    max_images: int = setting(64, "most images in one request", parse=_at_least_one)
    max_inflated: int = setting(
        100 * 2**20, "largest body, or message of gRPC, after decompression", unit="bytes", parse=size
    )
    max_json_values: int = setting(16_000_000, "most values in the JSON of one request", parse=_at_least_one)
    max_json_depth: int = setting(1_000_000, "most lists and objects inside each other in JSON", parse=_at_least_one)
    body_timeout: float = setting(30.0, "longest a client may take to send a body", unit="seconds")

    runners: int = setting(os.cpu_count() or 1, "model calls at the same time, one core each", parse=_at_least_one)
    max_batch: int = setting(16, "most images in one model call", parse=_at_least_one)
    batch_wait: float = setting(0.0, "longest an image waits for company while a runner is free", unit="seconds")
    queue: int = setting(
        256, "most requests, or images, for a version of a model; more are refused", parse=_at_least_one
    )

    # The default outlasts the time for which the proxy calls a worker's address good.
    drain_delay: float = setting(1.5, "serve on for so long after leaving the registry", unit="seconds")
    drain_timeout: float = setting(10.0, "then wait for running requests at most", unit="seconds")
    log_level: str = setting("info", "debug, info, warning or error", parse=log_level)

    def __post_init__(self) -> None:
        if self.model is not None and self.graph is not None:
            raise ValueError("--model and --graph both say what to serve: give one of them")
        if self.max_images > self.queue:
            raise ValueError(f"--max-images {self.max_images} would never fit into --queue {self.queue}")

    @property
    def drop_in(self) -> bool:
        """Is this worker to behave as tensorflow_model_server would?"""
        return bool(self.model_base_path or self.model_config_file)

    @property
    def serves_http(self) -> bool:
        """Is there to be a port for HTTP? Where a drop-in says 0, it means none."""
        return bool(self.port) or not self.drop_in

    @property
    def serves_grpc(self) -> bool:
        """Is there to be a TCP port for gRPC? It may have a Unix socket without one."""
        return self.grpc and (bool(self.grpc_port) or not self.drop_in)

    @property
    def path(self) -> Path:
        """What to serve."""
        return Path(self.graph or self.model or "models")

    @property
    def hints(self) -> Hints:
        """What the flags say about the model."""
        return Hints(
            input=self.input_layer,
            output=self.output_layer,
            height=self.input_height,
            width=self.input_width,
            mean=self.input_mean,
            std=self.input_std,
            scores="logits" if self.logits else None,
        )
