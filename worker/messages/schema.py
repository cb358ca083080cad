"""Protobuf message classes, made at import from the `.proto` files beside this one.

Not generated code: that is tied to one major version of protobuf, and TensorFlow takes several. Nor the classes of
`tensorflow-serving-api`, which brings the whole `tensorflow` wheel along. The classes live in a descriptor pool of
their own, so they meet neither TensorFlow's nor a client's classes of the same names, and importing them imports no
TensorFlow. What is read here of the language is what those files use: messages, enums, `oneof`, `map`, `repeated`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_TOKEN: Final = re.compile(r'//[^\n]*|\s+|("[^"]*"|[\w.]+|[{}=;<>,])')
_SCALARS: Final = {
    kind.name.removeprefix("TYPE_").lower(): kind.number
    for kind in descriptor_pb2.FieldDescriptorProto.Type.DESCRIPTOR.values
}
_FIELD: Final = descriptor_pb2.FieldDescriptorProto


class _Reader:
    """One file, token by token."""

    def __init__(self, name: str, text: str) -> None:
        self._tokens: Iterator[str] = (match[1] for match in _TOKEN.finditer(text) if match[1])
        self.file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")

    def read(self) -> descriptor_pb2.FileDescriptorProto:
        for token in self._tokens:
            match token:
                case "syntax":
                    self._until(";")
                case "package":
                    self.file.package = self._until(";")[0]
                case "import":
                    self.file.dependency.append(self._until(";")[0].strip('"'))
                case "enum":
                    self._enum(self.file.enum_type.add())
                case "message":
                    self._message(self.file.message_type.add())
                case _:
                    raise ValueError(f"{self.file.name}: {token!r} is not understood")
        return self.file

    def _until(self, end: str) -> list[str]:
        taken: list[str] = []
        while (token := next(self._tokens)) != end:
            taken.append(token)
        return taken

    def _enum(self, enum: Any) -> None:
        enum.name = self._until("{")[0]
        while (name := next(self._tokens)) != "}":
            enum.value.add(name=name, number=int(self._until(";")[-1]))

    def _message(self, message: Any) -> None:
        message.name = self._until("{")[0]
        while (token := next(self._tokens)) != "}":
            match token:
                case "enum":
                    self._enum(message.enum_type.add())
                case "message":
                    self._message(message.nested_type.add())
                case "oneof":
                    message.oneof_decl.add(name=self._until("{")[0])
                    while (kind := next(self._tokens)) != "}":
                        self._field(message, kind).oneof_index = len(message.oneof_decl) - 1
                case "map":
                    self._map(message)
                case "repeated":
                    self._field(message, next(self._tokens)).label = _FIELD.LABEL_REPEATED
                case kind:
                    self._field(message, kind)

    def _field(self, message: Any, kind: str) -> Any:
        name, _, number = self._until(";")
        return _add(message, name, int(number), kind)

    def _map(self, message: Any) -> None:
        _, key, _, value, _, name, _, number = self._until(";")
        entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add(entry, "key", 1, key)
        _add(entry, "value", 2, value)
        _add(message, name, int(number), entry.name).label = _FIELD.LABEL_REPEATED


def _add(message: Any, name: str, number: int, kind: str) -> Any:
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type_name = kind  # relative: the pool looks it up from here outwards, as protoc does
    return field


def _load() -> Any:
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    for name in ("tensorflow.proto", "config.proto", "serving.proto", "health.proto"):
        text = (Path(__file__).parent / name).read_text("utf-8")
        pool.AddSerializedFile(_Reader(name, text).read().SerializeToString())
    return pool


POOL: Final = _load()
"""Where these classes are at home; `google.protobuf.text_format` and `json_format` want to know."""


def message_class(name: str) -> Any:
    """The class of the message with this full name, such as `tensorflow.serving.ModelSpec`."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))
