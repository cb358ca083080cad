"""TensorFlow Serving's configuration files: text in, messages out; `config.proto` lists their fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format

from worker.messages.schema import POOL, message_class

BatchingParameters: Final = message_class("tensorflow.serving.BatchingParameters")
ModelConfig: Final = message_class("tensorflow.serving.ModelConfig")
ModelServerConfig: Final = message_class("tensorflow.serving.ModelServerConfig")
MonitoringConfig: Final = message_class("tensorflow.serving.MonitoringConfig")
SSLConfig: Final = message_class("tensorflow.serving.SSLConfig")


class BadConfig(ValueError):
    """A configuration file that cannot be read as what it should be: the message whose full name is `kind`."""

    def __init__(self, sentence: str, kind: str, source: str) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.source = source


def read_config(path: Path, message: Any) -> Any:
    """The text-format `message` (one of the classes above) in the file at `path`. Raises BadConfig, OSError."""
    return parse_config(path.read_bytes(), message, str(path))


def parse_config(text: bytes, message: Any, source: str) -> Any:
    """The text-format `message` in `text`, which is from `source`. Raises BadConfig."""
    kind = message.DESCRIPTOR.full_name
    try:
        return text_format.Parse(text.decode("utf-8"), message(), descriptor_pool=POOL)
    except UnicodeDecodeError:
        raise BadConfig(f"{source} is not a text file in UTF-8", kind, source) from None
    except text_format.ParseError as error:
        raise BadConfig(f"{source}: {error}", kind, source) from None
