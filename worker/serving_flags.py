"""tensorflow_model_server's command line: its syntax, its own names for the ports, and what it refuses.

A flag that nobody knows is told, and the server starts all the same; a value that cannot be read prints the usage and
ends the process with status 255. Both spellings of a flag are understood, and a value may be the next word, too.
This project's own settings may stand among the others, and its variables of the environment count.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from muster.settings import settle
from worker.addresses import everywhere
from worker.settings import WorkerSettings
from worker.status import Code, StatusError

FAILED = 255
"""The exit status of a server that did not start."""
RENAMED = {"port": "grpc_port", "rest_api_port": "port"}
"""What these flags are called in `WorkerSettings`."""
WITHOUT_EFFECT = {
    "rest_api_num_threads": "one event loop serves every connection",
    "num_tflite_pools": "a call that finds no free interpreter gets a new one",
    "num_tflite_interpreters_per_pool": "a call that finds no free interpreter gets a new one",
    "tensorflow_session_config_file": "only --tensorflow_*_parallelism can be chosen",
    "platform_config_file": "batching and sessions have flags of their own",
    "per_process_gpu_memory_fraction": "models run on the CPU",
    "flush_filesystem_caches": "the system decides what it keeps in memory",
    "remove_unused_fields_from_bundle_metagraph": "the graph is given back once it is loaded",
    "thread_pool_factory_config_file": "--runners says how many calls run at the same time",
    "mixed_precision": "a model runs as it was saved",
    "skip_initialize_tpu": "there is no TPU",
    "xla_cpu_compilation_enabled": "a model runs as it was saved",
    "xla_gpu_compilation_enabled": "models run on the CPU",
}
"""Flags that are understood and change nothing, and why."""
_SWITCHES = {
    "flush_filesystem_caches", "remove_unused_fields_from_bundle_metagraph", "skip_initialize_tpu",
    "xla_cpu_compilation_enabled", "xla_gpu_compilation_enabled", "use_alts_credentials",
}  # fmt: skip
LARGEST = "256MiB"
"""tensorflow_model_server takes bodies of any size. Here it is as much as a machine can hold several of."""
NOBODY = "static://"
"""The registry of a worker that is not announced: a list of none."""
_FIELDS: dict[str, dataclasses.Field[Any]] = {
    {ours: theirs for theirs, ours in RENAMED.items()}.get(field.name, field.name): field
    for field in dataclasses.fields(WorkerSettings)
}
"""Every setting, by the name that it has on such a command line."""
_CALLED = {field.name: f"--{name}" for name, field in _FIELDS.items()}


class BadValue(ValueError):
    """A flag's value cannot be read."""


def name_of(word: str) -> str:
    """The flag that a word of a command line is, underscores in its name; empty if it is none."""
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else ""


def read(argv: Sequence[str], environ: Mapping[str, str], prefix: str, program: str) -> WorkerSettings:
    """The settings. Ends the process after a value that cannot be read and for --help.

    Raises StatusError for what tensorflow_model_server refuses to start with.
    """
    try:
        given, unknown = parse(argv)
        if "help" in given:
            raise BadValue
        settings = settle(WorkerSettings, _with_defaults(given, environ, prefix), environ, prefix, _CALLED)
    except ValueError as error:
        sys.stderr.write(f"{error}\n" if error.args else "")
        sys.stdout.write(_usage(program))
        sys.exit(FAILED)
    if unknown:
        sys.stdout.write("".join(f"unknown argument: {word}\n" for word in unknown) + _usage(program))
        sys.stdout.flush()
    _tell_what_is_without_effect(given)
    settings = _with_two_ports(settings)
    _refuse(settings, given)
    return settings


def parse(argv: Sequence[str]) -> tuple[dict[str, str | bool], list[str]]:
    """What the flags say, by the names of the settings, and the words that are no flag. Raises BadValue."""
    given: dict[str, str | bool] = {}
    unknown = []
    words = deque(argv)
    while words:
        word = words.popleft()
        name, value = name_of(word), word.partition("=")[2] if "=" in word else None
        if name.startswith("no_") and value is None and _is_switch(name.removeprefix("no_")):
            given[_setting(name.removeprefix("no_"))] = False
        elif name == "help" or _is_switch(name):
            given[_setting(name)] = _switched(word, value)
        elif name in _FIELDS or name in WITHOUT_EFFECT:
            given[_setting(name)] = _following(word, words) if value is None else value
        else:
            unknown.append(word)
    return given, unknown


def _is_switch(name: str) -> bool:
    return name in _SWITCHES or (name in _FIELDS and isinstance(_FIELDS[name].default, bool))


def _setting(name: str) -> str:
    return RENAMED.get(name, name)


def _switched(word: str, value: str | None) -> bool:
    if value is None:
        return True
    if value.lower() not in ("true", "false"):
        raise BadValue(f"{word}: the value is neither true nor false")
    return value.lower() == "true"


def _following(word: str, words: deque[str]) -> str:
    if not words or words[0].startswith("--"):
        raise BadValue(f"{word} has no value")
    return words.popleft()


def _with_defaults(given: Mapping[str, str | bool], environ: Mapping[str, str], prefix: str) -> dict[str, str | bool]:
    """What is given, and what is so unless something else is said: an unlisted worker has nobody to wait for."""

    def said(name: str) -> bool:
        return name in given or f"{prefix}_{name.upper()}" in environ

    defaults = {"grpc_port": "8500", "host": everywhere(), "max_body": LARGEST}
    if not said("registry"):
        defaults |= {"registry": NOBODY, "drain_delay": "0"}
    return {**{name: text for name, text in defaults.items() if not said(name)}, **given}


def _tell_what_is_without_effect(given: Mapping[str, str | bool]) -> None:
    told = [f"--{name} ({why})" for name, why in WITHOUT_EFFECT.items() if name in given]
    if told:
        sys.stderr.write(f"without effect here: {', '.join(told)}\n")


def _refuse(settings: WorkerSettings, given: Mapping[str, str | bool]) -> None:
    def refusals() -> Iterator[str]:
        if not settings.grpc_port and not settings.grpc_socket_path:
            yield "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        if not settings.drop_in:
            yield "Both server_options.model_base_path and server_options.model_config_file are empty!"
        if given.get("use_alts_credentials"):
            yield "use_alts_credentials is not supported: use ssl_config_file"
        if settings.batching_parameters_file and not settings.enable_batching:
            yield (
                "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
            )
        threads = ("session", "intra_op", "inter_op")
        if all(getattr(settings, f"tensorflow_{kind}_parallelism") > 0 for kind in threads):
            yield "tensorflow_session_parallelism cannot be set together with both intra_op and inter_op parallelism"
        if settings.registry != NOBODY and not settings.port:
            yield "a registry lists workers by their HTTP address: rest_api_port must be set, too"

    for refusal in refusals():
        raise StatusError(Code.INVALID_ARGUMENT, refusal)


def _with_two_ports(settings: WorkerSettings) -> WorkerSettings:
    if settings.port and settings.port == settings.grpc_port:
        sys.stderr.write(
            f"rest_api_port cannot be the same as port ({settings.port}). "
            "Please use a different port for HTTP/REST API. Skipped exporting HTTP/REST API.\n"
        )
        return dataclasses.replace(settings, port=0)
    return settings


def _usage(program: str) -> str:
    lines = [f"usage: {program}", "Flags:"]
    for name, field in _FIELDS.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        shown = {"port": 8500}.get(name, "" if default is None else default)
        lines.append(f"\t--{name}={shown}\t{field.metadata['help']}")
    lines += [f"\t--{name}\twithout effect: {why}" for name, why in WITHOUT_EFFECT.items()]
    return "\n".join(lines) + "\n"
