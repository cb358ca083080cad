"""TensorFlow's own messages as classes: `tensorflow.proto` lists their fields."""

from __future__ import annotations

from typing import Final

from worker.messages.schema import POOL, message_class

DataType: Final = POOL.FindEnumTypeByName("tensorflow.DataType")
Example: Final = message_class("tensorflow.Example")
SignatureDef: Final = message_class("tensorflow.SignatureDef")
TensorInfo: Final = message_class("tensorflow.TensorInfo")
TensorProto: Final = message_class("tensorflow.TensorProto")
TensorShapeProto: Final = message_class("tensorflow.TensorShapeProto")
