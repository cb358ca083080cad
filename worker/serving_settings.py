"""tensorflow_model_server's flags, by their own names and with their own defaults.

`worker.settings` adds this project's; what is not here is accepted and told to have no effect (`worker.flags`).
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.settings import setting


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """What a user of tensorflow_model_server may ask for."""

    model_name: str = setting("default", "name of the model in --model_base_path")
    model_base_path: str = setting("", "directory of one model's numbered versions; an absolute path")
    model_config_file: str = setting("", "file that lists the models, as a text ModelServerConfig")
    model_config_file_poll_wait_seconds: int = setting(0, "read that file again so often; 0 is never", unit="seconds")
    file_system_poll_wait_seconds: int = setting(
        1, "look for new and removed versions so often; 0 is once, less is never", unit="seconds"
    )
    num_load_threads: int = setting(0, "models that may load at the same time; 0 is one after the other")
    num_unload_threads: int = setting(0, "models that may unload at the same time; 0 is one after the other")
    max_num_load_retries: int = setting(5, "try again so often to load a version that failed (drop-in only)")
    load_retry_interval_micros: int = setting(
        60_000_000, "pause before trying again (drop-in only)", unit="microseconds"
    )
    allow_version_labels_for_unavailable_models: bool = setting(
        False, "a new label may name a version that is not available yet"
    )
    saved_model_tags: str = setting("serve", "tags of the graph to load from a SavedModel, separated by commas")
    prefer_tflite_model: bool = setting(False, "load model.tflite from a version's directory if there is one")
    enable_model_warmup: bool = setting(True, "replay a version's assets.extra/tf_serving_warmup_requests")
    num_request_iterations_for_warmup: int = setting(0, "replay each of those requests so often; 0 is once")

    enable_batching: bool = setting(False, "run the tensors of several requests in one model call")
    batching_parameters_file: str = setting("", "how to do that, as a text BatchingParameters")
    enable_per_model_batching_parameters: bool = setting(
        False, "read batching_params.pbtxt in a version's directory, and batch no model without it"
    )
    tensorflow_session_parallelism: int = setting(0, "threads within a model call; 0 is one")
    tensorflow_intra_op_parallelism: int = setting(0, "threads within one operation; 0 is one")
    tensorflow_inter_op_parallelism: int = setting(0, "operations of a model call at the same time; 0 is one")

    rest_api_timeout_in_ms: int = setting(
        30_000, "longest run of a model for a REST request; 0 is for ever", unit="milliseconds"
    )
    rest_api_enable_cors_support: bool = setting(False, "let pages from other origins use the REST API")
    enable_signature_method_name_check: bool = setting(
        False, "classify, regress and predict demand a signature made for them"
    )
    monitoring_config_file: str = setting("", "where to show metrics by their old names, as a text MonitoringConfig")

    grpc_socket_path: str = setting("", "listen for gRPC on this Unix socket, too")
    grpc_channel_arguments: str = setting("", "options of the gRPC server: key=value,key=value")
    grpc_max_threads: int = setting(0, "most gRPC requests at work at the same time; 0 is 1024")
    ssl_config_file: str = setting("", "keys and certificates for gRPC, as a text SSLConfig")
    enable_grpc_healthcheck_service: bool = setting(False, "serve grpc.health.v1.Health")
    enable_profiler: bool = setting(True, "serve tensorflow.ProfilerService (drop-in only)")
    enable_serialization_as_tensor_content: bool = setting(
        False, "gRPC answers carry tensors as raw bytes: faster, but not what every client reads"
    )
