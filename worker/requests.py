"""What a request in TensorFlow Serving's messages asks of a model, and the answer to it; gRPC and warm-up files use it.

Pure: `plan_…` checks a request against a servable and says which tensors are fed, with what, and which are fetched;
`Planned.answer` makes the response of what the model returned. The order of the checks is TensorFlow Serving's, for it
decides which of several mistakes is told, and so are the sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from worker.examples import (
    CLASSIFY,
    DEFAULT_SIGNATURE,
    REGRESS,
    Examples,
    behind,
    classification,
    classifications,
    regression,
    regressions,
    signature_for_examples,
)
from worker.messages import serving
from worker.models.servable import Array, Servable, Signature, Tensor
from worker.status import Code, StatusError
from worker.tensor_proto import LARGEST_FILL, Unreadable, announced, to_array, to_proto

PREDICT: Final = "tensorflow/serving/predict"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decides about requests."""

    check_method: bool = False
    """A signature is only used for what its method_name says."""
    as_content: bool = False
    """Tensors of answers are raw bytes."""
    largest_fill: int = LARGEST_FILL
    """Bytes that a request's values may be filled up to: a tensor (`worker.tensor_proto`), examples with a context."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A checked request: feed `arrays` to `inputs`, fetch `outputs`, and `answer` makes a message of their values.

    `answer` raises StatusError if the values are not what such a signature promises.
    """

    inputs: tuple[Tensor, ...]
    arrays: tuple[Array, ...]
    outputs: tuple[Tensor, ...]
    answer: Callable[[Sequence[Array]], Any]
    examples: int = 0
    """How many `tf.Example`s it classifies or regresses."""


DEFAULT_RULES: Final = Rules()


def unpacked(request: Any) -> int:
    """Bytes that planning the request may take beside those of the message, as far as it says so itself."""
    if isinstance(request, serving.PredictRequest):
        return sum([announced(proto) for proto in request.inputs.values()])
    repeated = request.input.example_list_with_context
    return len(repeated.context) * len(repeated.examples)


def plan_predict(servable: Servable, request: Any, rules: Rules = DEFAULT_RULES) -> Planned:
    """A PredictRequest. Raises StatusError."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    if rules.check_method:
        check_predict_method(signature)
    _check_number(signature, request.inputs)
    arrays = _arrays(signature, request.inputs, rules.largest_fill)
    aliases = _aliases(signature, request.output_filter)
    outputs = tuple(signature.outputs[alias] for alias in aliases)

    def answer(results: Sequence[Array]) -> Any:
        response = serving.PredictResponse(model_spec=_spec(servable, request.model_spec))
        for alias, tensor, result in zip(aliases, outputs, results, strict=True):
            to_proto(result, response.outputs[alias], tensor.dtype, rules.as_content)
        return response

    return Planned(tuple(signature.inputs.values()), arrays, outputs, answer)


def check_predict_method(signature: Signature) -> None:
    """Raises StatusError if `signature` is made for none of what TensorFlow Serving does."""
    if signature.method_name not in (PREDICT, CLASSIFY, REGRESS):
        raise StatusError(
            Code.INTERNAL,
            "Expected prediction signature method_name to be one of "
            f"{{{PREDICT}, {CLASSIFY}, {REGRESS}}}. Was: {signature.method_name}",
        )


def plan_classify(servable: Servable, request: Any, rules: Rules = DEFAULT_RULES) -> Planned:
    """A ClassificationRequest. Raises StatusError."""
    return _plan_examples(servable, request, rules, classification, serving.ClassificationResponse, _put_classes)


def plan_regress(servable: Servable, request: Any, rules: Rules = DEFAULT_RULES) -> Planned:
    """A RegressionRequest. Raises StatusError."""
    return _plan_examples(servable, request, rules, regression, serving.RegressionResponse, _put_numbers)


def _plan_examples(
    servable: Servable,
    request: Any,
    rules: Rules,
    how: Callable[[Signature, bool], Examples],
    kind: Any,
    put: Callable[[Any, Examples, Sequence[Array], int], None],
) -> Planned:
    """One signature, used as `how` says; `put` writes what it returned into the result of a response of this `kind`."""
    signature = signature_for_examples(servable, request.model_spec.signature_name)
    examples = how(signature, rules.check_method)
    records = _records(request.input, rules.largest_fill)

    def answer(results: Sequence[Array]) -> Any:
        response = kind(model_spec=_spec(servable, request.model_spec))
        put(response.result, examples, results, len(records))
        return response

    return Planned((examples.input,), (records,), examples.outputs, answer, len(records))


def plan_multi_inference(servable: Servable, request: Any, rules: Rules = DEFAULT_RULES) -> Planned:
    """A MultiInferenceRequest: several signatures, one call of the model. Raises StatusError."""
    tasks = _tasks(servable, request, rules)
    # TensorFlow 2 gives every signature a placeholder of its own; TensorFlow 1's mostly share one.
    inputs = {examples.input.name: examples.input for examples in tasks}
    outputs = {tensor.name: tensor for examples in tasks for tensor in examples.outputs}
    records = _records(request.input, rules.largest_fill)

    def answer(results: Sequence[Array]) -> Any:
        values = dict(zip(outputs, results, strict=True))
        response = serving.MultiInferenceResponse()
        for task, examples in zip(request.tasks, tasks, strict=True):
            result = response.results.add(model_spec=_spec(servable, task.model_spec))
            own = [values[tensor.name] for tensor in examples.outputs]
            if task.method_name == CLASSIFY:
                _put_classes(result.classification_result, examples, own, len(records))
            else:
                _put_numbers(result.regression_result, examples, own, len(records))
        return response

    return Planned(tuple(inputs.values()), (records,) * len(inputs), tuple(outputs.values()), answer, len(records))


def _check_number(signature: Signature, sent: Mapping[str, Any]) -> None:
    """Raises StatusError if so many inputs cannot be right."""
    wanted = signature.inputs
    if len(sent) == len(wanted) or (len(sent) < len(wanted) and signature.defaults):
        return
    raise _invalid(
        f"input size does not match signature: {len(sent)}!={len(wanted)} len({_set(sent)}) != len({_set(wanted)}). "
        f"Sent extra: {_set(sent.keys() - wanted.keys())}. Missing but required: {_set(wanted.keys() - sent.keys())}."
    )


def _arrays(signature: Signature, sent: Mapping[str, Any], largest_fill: int) -> tuple[Array, ...]:
    """The value of each input, in the order of the signature."""
    arrays, used = [], []
    for alias, tensor in signature.inputs.items():
        if alias in sent:
            try:
                arrays.append(to_array(sent[alias], largest_fill))
            except Unreadable:
                raise _invalid(f"tensor parsing error: {alias}") from None
            used.append(alias)
        elif alias in signature.defaults:
            arrays.append(signature.defaults[alias])
        else:
            raise _invalid(
                f"Signature input alias: {alias}(feed name: {tensor.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_set(sent)}, "
                f"or default input alias set: {','.join(sorted(signature.defaults))}"
            )
    if len(used) != len(sent):
        raise _invalid(
            "Inputs contains invalid name. "
            f"Used request inputs: {','.join(sorted(used))}, request input: {','.join(sorted(sent))}"
        )
    return tuple(arrays)


def _aliases(signature: Signature, wanted: Iterable[str]) -> tuple[str, ...]:
    """The names of the outputs to return: those that are `wanted`, or all."""
    aliases: list[str] = []
    for alias in wanted:
        if alias not in signature.outputs:
            raise _invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_set(signature.outputs)}."
            )
        if alias in aliases:
            raise _invalid(f"duplicate output tensor alias: {alias}")
        aliases.append(alias)
    return tuple(aliases or signature.outputs)


def _tasks(servable: Servable, request: Any, rules: Rules) -> list[Examples]:
    """How each task of a MultiInferenceRequest uses the model."""
    plans: dict[str, Examples] = {}
    model = request.tasks[0].model_spec.name if request.tasks else ""
    for task in request.tasks:
        if not task.model_spec.name:
            raise _invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != model:
            raise _invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in plans:
            raise _invalid(f"Duplicate evaluation of signature: {name}")
        signature = servable.signatures.get(name)
        if signature is None:
            raise _invalid(f"Requested signature not found in model graph: {name}")
        how = {CLASSIFY: classification, REGRESS: regression}.get(task.method_name)
        if how is None:
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        plans[name] = how(signature, rules.check_method)
    return list(plans.values())


def _records(given: Any, largest_fill: int) -> Array:
    """The serialised examples of an Input, each behind the context, whose features it may so override."""
    with_context = given.WhichOneof("kind") == "example_list_with_context"
    source = given.example_list_with_context if with_context else given.example_list
    if not source.examples:
        raise _invalid("Input is empty.")
    if with_context:
        return behind(source.context, source.examples, largest_fill)
    records = np.empty(len(source.examples), object)
    records[:] = source.examples[:]
    return records


def _put_classes(result: Any, examples: Examples, arrays: Sequence[Array], count: int) -> None:
    for row in classifications(examples, arrays, count):
        classes = result.classifications.add().classes
        for label, score in row:
            # Labels are text in the message and bytes in the graph.
            classes.add(label=label.decode("utf-8", "replace"), score=score)


def _put_numbers(result: Any, examples: Examples, arrays: Sequence[Array], count: int) -> None:
    for number in regressions(examples, arrays, count):
        result.regressions.add(value=number)


def _spec(servable: Servable, asked: Any) -> Any:
    """The ModelSpec of an answer: who really answered."""
    spec = serving.ModelSpec(name=servable.name, signature_name=asked.signature_name or DEFAULT_SIGNATURE)
    spec.version.value = servable.version
    return spec


def _set(names: Iterable[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)
