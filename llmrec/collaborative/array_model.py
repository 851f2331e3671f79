"""The base class of collaborative models: parameters, checks of numbers, saving and loading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import ConfigDict, ValidationError

from llmrec.checked import read_array, read_checked
from llmrec.contracts import CollaborativeModel, Items, Memory, ScoreKind, Sequences, Sizes
from llmrec.errors import ModelError
from llmrec.files import write_json
from llmrec.recipe.collaborative import Device, ModelSpec

Shape = tuple[str | int, ...]
"""The dtype of an array, then its axes: sizes, or names (`items`, a parameter, or a name that arrays share)."""
_FORMAT, _FILE = 1, "collaborative.json"
REMEDY = "Copy the folder again, or delete it and make it again with `llmrec run`."


@dataclass(frozen=True)
class SavedModel:
    """collaborative.json: kind and parameters of a saved model, number of its items, hash of their ids."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    format: int
    model: str
    parameters: dict[str, Any]
    items: int
    item_ids: str

    @classmethod
    def read(cls, folder: Path, items: Items) -> SavedModel:
        """Read the file of a folder.

        Raises:
            ModelError: missing, damaged, of another version, or the model was fitted on other items than these.
        """
        saved: SavedModel = read_checked(folder / _FILE, cls, REMEDY, ModelError)
        if saved.format != _FORMAT:
            raise ModelError(f"{folder / _FILE} has format {saved.format}, this llmrec reads {_FORMAT}. {REMEDY}")
        if (saved.items, saved.item_ids) != (len(items), items.hash):
            raise ModelError(
                f"{folder} holds a model that was fitted on {saved.items} items of another catalogue than these "
                f"{len(items)}, or in another order: its scores would be given to the wrong items. Fit it on this "
                "run's data: delete the folder, then `llmrec run`."
            )
        return saved

    def spec(self, kind: type[ModelSpec], folder: Path, device: Device) -> ModelSpec:
        """The parameters as the type that recipes have.

        Raises:
            ModelError: that kind of model does not take them.
        """
        try:
            return kind(**self.parameters, **({"device": device} if "device" in kind.model_fields else {}))
        except (ValidationError, TypeError):
            raise ModelError(f"{folder / _FILE} has parameters that {self.model} does not take. {REMEDY}") from None


class ArrayModel(ABC):
    """A collaborative model whose state is a few arrays.

    A subclass names its parameters (`Spec`) and arrays (`ARRAYS`), and defines `score`; also `_fit` and `memory`,
    unless it only combines scores of its parts.

    Attributes:
        parts: fitted models that it combines, by role, as `spec.parts` names them.
        items: that it was fitted on.
    """

    Spec: ClassVar[type[ModelSpec]]
    ARRAYS: ClassVar[Mapping[str, Shape]] = {}
    score_kind: ScoreKind = "shares"
    items: Items

    def __init__(self, parts: Mapping[str, CollaborativeModel] | None = None, **parameters: Any) -> None:
        """Set parameters, where they differ from the defaults; `llmrec.collaborative.fit` passes `parts`."""
        self.spec = self.Spec(**parameters)
        self.parts = dict(parts or {})

    def fit(self, train: Sequences, items: Items, progress: Callable[[float], None] = lambda share: None) -> Self:
        """See `CollaborativeModel.fit`.

        Raises:
            ModelError: training ended with numbers that are not finite.
        """
        self.items = items
        self._fit(train, progress)
        for name, array in self._state().items():
            if not np.isfinite(array).all():
                remedy = "Lower its learning_rate" if "learning_rate" in self.spec.parameters else "Raise its l2"
                raise ModelError(f"{self.spec.name} ended with numbers in {name} that are not finite. {remedy}.")
        return self

    def _fit(self, train: Sequences, progress: Callable[[float], None]) -> None:  # noqa: B027  parts may be all
        """Fit the arrays of `ARRAYS`; `self.items` is set already."""

    @abstractmethod
    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32, see `CollaborativeModel.score`."""

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """See `CollaborativeModel.memory`; without the parts."""
        return Memory(0, 0)

    def save(self, folder: Path) -> None:
        """Write a `.npy` file for each array, and `collaborative.json`; parts are saved on their own."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self._state().items():
            np.save(folder / f"{name}.npy", array)
        record = {"format": _FORMAT, "model": self.spec.kind, "parameters": self.spec.parameters}
        write_json(folder / _FILE, record | {"items": len(self.items), "item_ids": self.items.hash})

    def restore(self, folder: Path, items: Items) -> Self:
        """Read what `save` wrote; arrays stay on disk, memory-mapped, where the model only reads them.

        Raises:
            ModelError: arrays are damaged.
        """
        self.items = items
        self._set_state(self._read(folder))
        if not self._is_consistent():
            raise ModelError(f"{folder} is damaged: its arrays contradict one another. {REMEDY}")
        return self

    def _read(self, folder: Path) -> dict[str, np.ndarray]:
        """The arrays of a folder, of the declared types and shapes."""
        sizes = {key: value for key, value in self.spec.parameters.items() if isinstance(value, int)}
        sizes["items"] = len(self.items)
        sizes |= {f"{name} + 1": size + 1 for name, size in sizes.items()}
        arrays = {}
        for name, (dtype, *axes) in self._shapes().items():
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

    def _shapes(self) -> Mapping[str, Shape]:
        """Types and shapes of the saved arrays."""
        return self.ARRAYS

    def _state(self) -> dict[str, np.ndarray]:
        """The arrays to save."""
        return {name: getattr(self, name) for name in self.ARRAYS}

    def _set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the state to saved arrays."""
        for name, array in arrays.items():
            setattr(self, name, array)

    def _is_consistent(self) -> bool:
        """Whether the values of the arrays fit together; their shapes are checked already."""
        return True


def torch_device(device: Device, model: str) -> torch.device:
    """The torch device of a recipe; `auto` is a GPU where there is one.

    Raises:
        ModelError: the recipe wants a GPU, and torch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"{model}.device: cuda needs a GPU, and torch finds none here. Use device: auto or cpu.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
