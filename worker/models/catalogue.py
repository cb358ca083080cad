"""The models of this worker, looked up by every request. `worker.models.loading` makes it; this knows no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

from muster.errors import BadRequest, UnknownModel
from worker.models.servable import Servable


class Catalogue:
    """The models that are served, by name and version. It does not change."""

    def __init__(self, servables: Sequence[Servable]) -> None:
        self._models: dict[str, dict[int, Servable]] = {}
        for servable in servables:
            self._models.setdefault(servable.name, {})[servable.version] = servable

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, in alphabetical order."""
        return tuple(sorted(self._models))

    @property
    def servables(self) -> tuple[Servable, ...]:
        """Every version of every model."""
        return tuple(servable for versions in self._models.values() for servable in versions.values())

    def look_up(self, name: str | None = None, version: int | None = None, label: str | None = None) -> Servable:
        """The model of that name, in that version or in its newest.

        Without a name it is the only model, or the one called "default". Raises UnknownModel, and BadRequest where the
        name cannot be left out.
        """
        name = name if name is not None else self._default()
        versions = self._models.get(name)
        if versions is None:
            sentence = f"there is no model {name!r}" if name else "the name of the model is empty"
            raise UnknownModel(sentence, models=list(self.names))
        if label is not None:
            raise UnknownModel(f"no version of the model {name!r} has the label {label!r}", models=list(self.names))
        if version is None:
            version = max(versions)
        if version not in versions:
            raise UnknownModel(f"the model {name!r} has no version {version}", versions=sorted(versions))
        return versions[version]

    def _default(self) -> str:
        if len(self._models) == 1:
            return next(iter(self._models))
        if "default" in self._models:
            return "default"
        raise BadRequest("this worker has several models: say which, as in ?model=NAME", models=list(self.names))
