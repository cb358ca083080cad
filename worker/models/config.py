"""Which models are wanted: a ModelServerConfig, or the flags for one model, as plain values that were checked.

A configuration is a whole: what is wrong with it is said as an INVALID_ARGUMENT before anything of it takes effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from worker.messages.config import ModelServerConfig, read_config
from worker.models.policy import All, Latest, Policy, Specific
from worker.serving_settings import ServingSettings
from worker.status import Code, StatusError

LIST: Final = "model_config_list"
"""The kind of ModelServerConfig that is understood."""
PLATFORM: Final = "tensorflow"
_FILES: Final = "file"
_ABSOLUTE: Final = re.compile(r"/|([A-Za-z][A-Za-z0-9+.-]*)://")
"""A path, or a URI and its scheme."""
_TENSORFLOW_TYPE: Final = 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model: where its versions are, which of them are wanted, and what they are called besides."""

    name: str
    base_path: str
    policy: Policy
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """The base path on this machine."""
        return Path(self.base_path.removeprefix(f"{_FILES}://"))


Models: TypeAlias = Mapping[str, ModelConfig]
"""The models of a configuration by name."""


def read_models(settings: ServingSettings, before: Models | None = None) -> Models:
    """The models that the flags or the file they name ask for; an empty file leaves those `before`. It blocks.

    Raises BadConfig or OSError if the file cannot be read, StatusError if it asks for what cannot be.
    """
    before = before or {}
    if settings.model_config_file:
        message = read_config(Path(settings.model_config_file), ModelServerConfig)
    else:
        message = ModelServerConfig()
        message.model_config_list.config.add(
            name=settings.model_name, base_path=settings.model_base_path, model_platform=PLATFORM
        )
    kind = message.WhichOneof("config")
    if kind is None:
        return before
    if kind != LIST:
        raise _invalid(f"{kind} is not supported: list the models in {LIST}")
    return models_of(message.model_config_list.config, before)


def models_of(listed: Sequence[Any], before: Models) -> Models:
    """The models that these members of a ModelConfigList are; `before` is what is in force. Raises StatusError."""
    _check_names(listed)
    for config in listed:
        _check_platform(config, before)
        if config.HasField("logging_config"):
            raise _invalid("No request-logger-creator provided.")
    return {
        config.name: ModelConfig(
            config.name, config.base_path, _policy(config.model_version_policy), dict(config.version_labels)
        )
        for config in listed
    }


def check_labels(models: Models, before: Models, available: Mapping[str, Sequence[int]], allow_early: bool) -> None:
    """Raises StatusError unless every label of `models` names a version that may have it now.

    That is an available one or, with `allow_early`, any for a label that is new or stays where it is in `before`.
    """
    for name, model in models.items():
        known = before[name].labels if name in before else {}
        for label, version in model.labels.items():
            early = allow_early and known.get(label, version) == version
            if version not in available.get(name, ()) and not early:
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {name}, "
                    "which is not currently available for inference",
                )


def _check_names(listed: Sequence[Any]) -> None:
    seen: set[str] = set()
    for config in listed:
        if not config.name:
            raise _invalid("A model in the config list has no name")
        if config.name in seen:
            raise _invalid(f"Illegal to list model {config.name} multiple times in config list")
        seen.add(config.name)
    for config in listed:
        absolute = _ABSOLUTE.match(config.base_path)
        if absolute is None:
            raise _invalid(
                f"Expected model {config.name} to have an absolute path or URI; got base_path()={config.base_path}"
            )
        if absolute[1] not in (None, _FILES):  # it would be waited for as if somebody could put it there
            raise _invalid(
                f"The base path {config.base_path} of model {config.name} is not a directory of this machine: "
                f"there is no file system for {absolute[1]}://"
            )


def _check_platform(config: Any, before: Models) -> None:
    if config.model_type and config.model_platform:
        raise _invalid(f"Illegal setting both model_type (deprecated) and model_platform of model {config.name}")
    if not config.model_type and not config.model_platform:
        raise _invalid(f"Illegal setting neither model_type (deprecated) nor model_platform of model {config.name}")
    platform = PLATFORM if config.model_type == _TENSORFLOW_TYPE else config.model_platform or str(config.model_type)
    if platform == PLATFORM:
        return
    if config.name in before:
        raise _invalid(
            f"Illegal to change a model's platform. For model {config.name} platform was {PLATFORM} "
            f"and new platform requested is {platform}"
        )
    raise _invalid(f"Model {config.name} requests unsupported platform {platform}")


def _policy(message: Any) -> Policy:
    match message.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(message.specific.versions))
        case _:
            return Latest(message.latest.num_versions)


def _invalid(sentence: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, sentence)
