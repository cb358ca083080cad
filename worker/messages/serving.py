"""TensorFlow Serving's messages as classes: `serving.proto` lists their fields."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import any_pb2

from worker.messages.schema import message_class

_PACKAGE: Final = "tensorflow.serving."

Any_: Final[Any] = message_class(any_pb2.Any.DESCRIPTOR.full_name)
Classifications: Final = message_class(_PACKAGE + "Classifications")
ClassificationRequest: Final = message_class(_PACKAGE + "ClassificationRequest")
ClassificationResponse: Final = message_class(_PACKAGE + "ClassificationResponse")
ClassificationResult: Final = message_class(_PACKAGE + "ClassificationResult")
GetModelMetadataRequest: Final = message_class(_PACKAGE + "GetModelMetadataRequest")
GetModelMetadataResponse: Final = message_class(_PACKAGE + "GetModelMetadataResponse")
GetModelStatusRequest: Final = message_class(_PACKAGE + "GetModelStatusRequest")
GetModelStatusResponse: Final = message_class(_PACKAGE + "GetModelStatusResponse")
InferenceResult: Final = message_class(_PACKAGE + "InferenceResult")
Input: Final = message_class(_PACKAGE + "Input")
ModelSpec: Final = message_class(_PACKAGE + "ModelSpec")
ModelVersionStatus: Final = message_class(_PACKAGE + "ModelVersionStatus")
MultiInferenceRequest: Final = message_class(_PACKAGE + "MultiInferenceRequest")
MultiInferenceResponse: Final = message_class(_PACKAGE + "MultiInferenceResponse")
PredictRequest: Final = message_class(_PACKAGE + "PredictRequest")
PredictResponse: Final = message_class(_PACKAGE + "PredictResponse")
PredictionLog: Final = message_class(_PACKAGE + "PredictionLog")
RegressionRequest: Final = message_class(_PACKAGE + "RegressionRequest")
RegressionResponse: Final = message_class(_PACKAGE + "RegressionResponse")
RegressionResult: Final = message_class(_PACKAGE + "RegressionResult")
ReloadConfigRequest: Final = message_class(_PACKAGE + "ReloadConfigRequest")
ReloadConfigResponse: Final = message_class(_PACKAGE + "ReloadConfigResponse")
SignatureDefMap: Final = message_class(_PACKAGE + "SignatureDefMap")
