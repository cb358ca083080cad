"""Which of the listed workers can be of use to a request: an index by model and version, made anew for each snapshot.

    a version is asked for      those that say they have it; if none does, those that have the model
    a model is asked for        those that have it, and those that do not say what they have
    none is named, one is due   the only model there is, or the one called `default`; if it is not clear: BadRequest
    nothing is asked for        everybody who has a model, or does not say

Pure, and without regard to who rests: a model that only a resting worker has is known. So is one whose last worker left
a moment ago and is likely to be back: it is missing, which passes, and not unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from muster.errors import BadRequest, NoWorkers, UnknownModel
from muster.values import Worker
from proxy.wants import Want

DEFAULT = "default"


class Seated(Protocol):
    """What has a worker."""

    @property
    def worker(self) -> Worker:
        """As it announced itself."""


S = TypeVar("S", bound=Seated)


class Offers(Generic[S]):
    """The seats, by what their workers have. `missing` are models that none of them has."""

    def __init__(self, seats: Iterable[S] = (), missing: Iterable[str] = ()) -> None:
        self._everybody = [seat for seat in seats if not seat.worker.empty]
        self._silent = [seat for seat in self._everybody if seat.worker.models is None]
        self._by_model: dict[str, list[S]] = {}
        self._by_version: dict[tuple[str, int], list[S]] = {}
        for seat in self._everybody:
            for model in seat.worker.models or ():
                self._by_model.setdefault(model, []).append(seat)
            for pair in seat.worker.versions:
                self._by_version.setdefault(pair, []).append(seat)
        self._missing = frozenset(missing)
        self.models = tuple(sorted(self._by_model.keys() | self._missing))
        """The models that somebody says to have, or said a moment ago, in alphabetical order."""

    def plain(self, want: Want) -> Want:
        """The one of all wants that come to the same which stands for them: there are only so many of those.

        Raises NoWorkers if there is nobody at all, or nobody at the moment; UnknownModel for a model that nobody has;
        and BadRequest if a model is needed, none is named, and it is not clear which is meant.
        """
        if not self._everybody:
            raise NoWorkers("no worker is available; they may be starting")
        model = self._unnamed() if want.unnamed else want.model
        if model is None:
            return Want(grpc=want.grpc)
        if model not in self._by_model:
            if model in self._missing:
                raise NoWorkers(f"no worker has the model {model!r} at the moment; the last one left just now")
            if not self._silent:
                raise UnknownModel(
                    f"Servable not found for request: Latest({model}); no worker has this model",
                    models=list(self.models),
                )
            return Want("", grpc=want.grpc)  # no model has an empty name
        known = want.version is not None and (model, want.version) in self._by_version
        return Want(model, want.version if known else None, grpc=want.grpc)

    def seats(self, plain: Want) -> list[S]:
        """Who can be of use to it. Raises NoWorkers if nobody of them speaks gRPC, and it has to be that."""
        if plain.version is not None:
            assert plain.model is not None  # noqa: S101
            found = self._by_version[plain.model, plain.version]
        elif plain.model is not None:
            found = self._by_model.get(plain.model, []) + self._silent
        else:
            found = self._everybody
        if plain.grpc:
            found = [seat for seat in found if seat.worker.grpc_port is not None]
            if not found:
                raise NoWorkers("no worker that could take the request speaks gRPC")
        return found

    def _unnamed(self) -> str | None:
        if len(self.models) == 1:
            return self.models[0]
        if DEFAULT in self.models:
            return DEFAULT
        if self._silent:
            return None
        raise BadRequest("the workers have several models: say which, as in ?model=NAME", models=list(self.models))
