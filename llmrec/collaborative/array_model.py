"""What collaborative models share: parameters, checks of features and numbers, and how they are saved and loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from llmrec.checked import read_array
from llmrec.collaborative.features import check_features
from llmrec.collaborative.saved import FILE, FORMAT, REMEDY, SavedModel
from llmrec.contracts import CollaborativeModel, Features, Items, Memory, ScoreKind, Sequences, Sizes
from llmrec.errors import ModelError
from llmrec.files import write_json
from llmrec.recipe.collaborative import Device
from llmrec.recipe.model_spec import ModelSpec

Shape = tuple[str | int, ...]
"""The dtype of an array, and its axes: numbers, or names (`items`, a parameter, or one that other arrays share)."""


class ArrayModel(ABC):
    """A collaborative model that some arrays describe.

    A subclass names its parameters (`Spec`) and arrays (`ARRAYS`), and defines `_fit`, `score` and `memory`.

    Attributes:
        spec: kind and parameters.
        parts: fitted models that it is composed of, by their role, as `spec.parts` names them.
        items: that it was fitted on.
    """

    Spec: ClassVar[type[ModelSpec]]
    ARRAYS: ClassVar[Mapping[str, Shape]] = {}
    score_kind: ScoreKind = "shares"
    needs: tuple[str, ...] = ()
    items: Items

    def __init__(self, parts: Mapping[str, CollaborativeModel] | None = None, **parameters: Any) -> None:
        """Choose parameters.

        Args:
            parts: see `ArrayModel`; `llmrec.collaborative.fit` and `load` fill them in.
            parameters: those that are not to be at their defaults.
        """
        self.spec = self.Spec(**parameters)
        self.parts = dict(parts or {})

    @classmethod
    def of(cls, spec: ModelSpec, parts: Mapping[str, CollaborativeModel] | None = None) -> Self:
        """The model of a recipe's entry, not fitted yet."""
        model = cls(parts)
        model.spec = spec
        return model

    def fit(
        self,
        train: Sequences,
        items: Items,
        features: Features = Features(),
        progress: Callable[[float], None] = lambda share: None,
    ) -> Self:
        """See `CollaborativeModel.fit`.

        Raises:
            DataError: see `CollaborativeModel.fit`.
            ModelError: numbers that are not finite, or `parts` are missing.
        """
        self._check_parts()
        check_features(self.spec.name, self.needs, train, features)
        self.items = items
        self._fit(train, features, progress)
        for name, array in self._state().items():
            if not np.isfinite(array).all():
                remedy = "Lower its learning_rate" if "learning_rate" in self.spec.parameters else "Raise its l2"
                raise ModelError(f"{self.spec.name} ended with numbers in {name} that are not finite. {remedy}.")
        return self

    @abstractmethod
    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        """Learn; sets what `ARRAYS` names. `self.items` is set already."""

    @abstractmethod
    def score(self, histories: Sequences) -> np.ndarray:
        """See `CollaborativeModel.score`."""

    @abstractmethod
    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """See `CollaborativeModel.memory`; of the model itself, without its parts."""

    def save(self, folder: Path) -> None:
        """Write a `.npy` file for each array, and `collaborative.json`; parts are saved by themselves."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self._state().items():
            np.save(folder / f"{name}.npy", array)
        about = {"format": FORMAT, "model": self.spec.kind, "parameters": self.spec.parameters}
        write_json(folder / FILE, about | {"items": len(self.items), "item_ids": self.items.hash})

    @classmethod
    def load(
        cls,
        folder: Path,
        items: Items,
        parts: Mapping[str, CollaborativeModel] | None = None,
        device: Device = "auto",
    ) -> Self:
        """Read what `save` wrote; arrays stay on disk, memory-mapped, where the model only reads them.

        Args:
            folder: as `save` wrote it.
            items: those that will be scored; they must be those that it was fitted on.
            parts: see `ArrayModel`.
            device: where it computes, if it is one that may use a GPU.

        Raises:
            ModelError: damaged, of another class or version, or fitted on other items.
        """
        saved = SavedModel.read(folder)
        model = cls.of(saved.spec(cls.Spec, folder, device), parts)
        if (saved.items, saved.item_ids) != (len(items), items.hash):
            raise ModelError(
                f"{folder} holds a model that was fitted on {saved.items} items of another catalogue than these "
                f"{len(items)}, or in another order: its scores would be given to the wrong items. Fit it on this "
                "run's data: delete the folder, then `llmrec run`."
            )
        model._check_parts()
        model.items = items
        model._set_state(model._read(folder))
        if not model._is_consistent():
            raise ModelError(f"{folder} is damaged: its arrays contradict one another. {REMEDY}")
        return model

    def _read(self, folder: Path) -> dict[str, np.ndarray]:
        """The arrays of a folder, of the declared types and shapes."""
        sizes = {key: value for key, value in self.spec.parameters.items() if isinstance(value, int)}
        sizes |= {"items": len(self.items), "items + 1": len(self.items) + 1}
        arrays = {}
        for name, (dtype, *axes) in self._declared().items():
            path = folder / f"{name}.npy"
            array = read_array(path, len(axes), REMEDY, ModelError, mapped=True)
            expected = tuple(
                axis if isinstance(axis, int) else sizes.setdefault(axis, length)
                for axis, length in zip(axes, array.shape, strict=True)
            )
            if array.dtype != dtype or array.shape != expected:
                raise ModelError(f"{path} must be {dtype} of {expected}, not {array.dtype} of {array.shape}. {REMEDY}")
            arrays[name] = array
        return arrays

    def _declared(self) -> Mapping[str, Shape]:
        """Types and shapes of the arrays that are saved."""
        return self.ARRAYS

    def _state(self) -> dict[str, np.ndarray]:
        """The arrays that are saved."""
        return {name: getattr(self, name) for name in self.ARRAYS}

    def _set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take arrays that were saved."""
        for name, array in arrays.items():
            setattr(self, name, array)

    def _is_consistent(self) -> bool:
        """Whether values of the arrays fit together; shapes were checked."""
        return True

    def _check_parts(self) -> None:
        if missing := self.spec.parts.keys() - self.parts.keys():
            names = ", ".join(self.spec.parts[role].kind for role in sorted(missing))
            raise ModelError(f"{self.spec.name} is composed of {names}: fit or load it by llmrec.collaborative.")
