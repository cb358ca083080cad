"""The queues of one version of a model: who shares a model call with whom, and who runs alone.

- Images wait for nobody and are batched as they queue up, in the sizes that the model was warmed for.
- Tensors run one request per call, which is right for any model, unless batching is asked for. Then requests for the
  same input and output tensors share calls, and images for them, too.

Models take turns at the runners, and so do a model's queues. Requests that agree in everything but their inner shapes
share a queue, not a call: TensorFlow Serving puts them into one call and fails all of them, here each runs with those
that it fits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from muster.errors import Overloaded
from worker.batching import LATE, OVERDUE, Batcher, Called, Ran
from worker.batching_arrays import cut, joined, kind_of, merged, pieces_of, rows_of
from worker.batching_parameters import Batching
from worker.models.servable import Array, Classifier, Run, Servable, Tensor
from worker.runners import Call, Line, Runners, Turns
from worker.status import Code, StatusError

KEPT = 64
"""So many queues without work are kept. Clients choose the outputs of a call, so there could be any number of them."""

_Tasks = Sequence[Sequence[Array]]
_Results = Sequence[list[Array] | Exception]
_Arrays = Batcher[Sequence[Array], list[Array]]
_Key = tuple[bool, tuple[str, ...], tuple[str, ...]]


class Lines:
    """The queues of `servable`. Images are at most `max_batch` in a call and wait for company for `batch_wait` seconds.

    `batching` is how requests share calls, if they do; `told` hears of each such call.
    """

    def __init__(
        self, servable: Servable, runners: Runners, batching: Batching | None, told: Callable[[Called], None],
        *, max_batch: int, batch_wait: float,
    ) -> None:  # fmt: skip
        self.inside = 0
        """Tasks on their way, counted by those who bring them."""
        self.bounded = 0
        """Those of them whose number has a bound."""
        self._servable = servable
        self._runners = runners
        self._turns = Turns()
        self._batching = batching
        self._told = told
        self._max_batch = max_batch
        self._batch_wait = batch_wait
        self._batchers: OrderedDict[_Key, _Arrays] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Tasks that wait for a runner."""
        return sum(batcher.waiting for batcher in self._batchers.values())

    @property
    def full(self) -> Overloaded | None:
        """What to say to whoever comes, if no queue has room for anything."""
        if not self._batchers or not all(batcher.full for batcher in self._batchers.values()):
            return None
        return next(iter(self._batchers.values())).overloaded()

    async def run(
        self, inputs: Sequence[Tensor], arrays: Sequence[Array], outputs: Sequence[Tensor], deadline: float | None
    ) -> Ran[list[Array]]:
        """The values of `outputs` for `arrays`, one for each of `inputs`. Raises what `Inference.run` does."""
        batching = self._batching
        if batching is None:
            rows = len(arrays[0]) if arrays and arrays[0].ndim else 1
            return await self._batcher(False, inputs, outputs, self._alone).submit(arrays, rows, None, deadline)
        rows = rows_of(arrays)
        if rows > batching.largest:
            raise StatusError(
                Code.INVALID_ARGUMENT, f"Task size {rows} is larger than maximum input batch size {batching.largest}"
            )
        pieces = [(piece, len(piece[0])) for piece in pieces_of(arrays, batching.size)]
        kind = kind_of(arrays, batching.pads_lengths)
        batcher = self._batcher(False, inputs, outputs, self._together)
        return _whole(await batcher.submit_all(pieces, kind, deadline))

    async def classify(self, classifier: Classifier, array: Array) -> Ran[list[Array]]:
        """The classifier's output for one packed image."""
        inputs, outputs = (classifier.input,), (classifier.output,)
        if self._batching is not None and _any_size(classifier.input):
            return await self.run(inputs, [array], outputs, None)
        return await self._batcher(True, inputs, outputs, self._images).submit([array])

    def offer(self, line: Line) -> None:
        """Let a queue of this model have a runner, when it is the model's turn and the queue's."""
        self._turns.add(line)
        self._runners.offer(self)

    @property
    def due(self) -> bool:
        """Is there work that need not wait for company any longer?"""
        return self._turns.due

    def next_call(self) -> Call | None:
        """The next call of the queue whose turn it is."""
        return self._turns.next_call()

    async def idle(self) -> None:
        """Return when no call is under way."""
        for batcher in self._batchers.values():
            await batcher.idle()

    def close(self) -> None:
        """Refuse what comes and what waits."""
        for batcher in self._batchers.values():
            batcher.close()

    def _batcher(
        self, images: bool, inputs: Sequence[Tensor], outputs: Sequence[Tensor], make: Callable[[Run], _Arrays]
    ) -> _Arrays:
        key = (images, tuple([tensor.name for tensor in inputs]), tuple([tensor.name for tensor in outputs]))
        batcher = self._batchers.get(key)
        if batcher is None:
            self._tidy()
            batcher = self._batchers[key] = make(self._servable.function(inputs, outputs))
        elif len(self._batchers) > 1:
            self._batchers.move_to_end(key)
        return batcher

    def _tidy(self) -> None:
        """Make room for one more queue: those that were not used for longest and have nothing to do go."""
        idle = [key for key, batcher in self._batchers.items() if not batcher.busy]
        for key in idle[: max(len(self._batchers) - KEPT + 1, 0)]:
            del self._batchers[key]

    def _alone(self, run: Run) -> _Arrays:
        return Batcher(lambda tasks: [run(*tasks[0])], self, late=OVERDUE)

    def _images(self, run: Run) -> _Arrays:
        classifier = self._servable.classifier
        assert classifier is not None  # noqa: S101  # else there are no images
        sizes = classifier.batch_sizes
        if sizes[-1] == 1:
            return self._alone(run)  # its input may not even have a dimension for rows
        size = min(self._max_batch, sizes[-1])
        return self._sharing(run, Batching(size, size, self._batch_wait, sizes=sizes), None, None)

    def _together(self, run: Run) -> _Arrays:
        assert self._batching is not None  # noqa: S101  # else nobody is together
        return self._sharing(run, self._batching, self._batching.backlog, self._told)

    def _sharing(
        self, run: Run, batching: Batching, backlog: int | None, told: Callable[[Called], None] | None
    ) -> _Arrays:
        return Batcher(
            _by_rows(run, batching.padded), self, size=batching.size, backlog=backlog, wait=batching.wait,
            padded=batching.padded, late=LATE, told=told,
        )  # fmt: skip


def _by_rows(run: Run, padded: Callable[[int], int]) -> Callable[[_Tasks], _Results]:
    """Tasks below each other in one call, padded up."""

    def call(tasks: _Tasks) -> _Results:
        counts = [len(task[0]) for task in tasks]
        rows = sum(counts)
        size = padded(rows) if rows else 0
        outputs = run(*merged(tasks, size))
        try:
            return cut(outputs, counts, size)
        except StatusError as error:  # the model is not made for batches, with whomever they are
            return [error] * len(tasks)

    return call


def _whole(pieces: Sequence[Ran[list[Array]]]) -> Ran[list[Array]]:
    if len(pieces) == 1:
        return pieces[0]
    return Ran(
        joined([piece.result for piece in pieces]),
        max(piece.waited for piece in pieces),
        sum(piece.took for piece in pieces),
        max(piece.batch for piece in pieces),
        max(piece.padding for piece in pieces),
    )


def _any_size(tensor: Tensor) -> bool:
    """May the tensor have any number of rows?"""
    return tensor.shape is None or (len(tensor.shape) > 0 and tensor.shape[0] is None)
