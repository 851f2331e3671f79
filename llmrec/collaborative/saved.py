"""The file that says which collaborative model lies in a folder, of which parameters and items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from llmrec.checked import read_checked
from llmrec.errors import ModelError
from llmrec.recipe.collaborative import Device
from llmrec.recipe.model_spec import ModelSpec

FORMAT = 1
FILE = "collaborative.json"
REMEDY = "Copy the folder again, or delete it and make it again with `llmrec run`."


@dataclass(frozen=True)
class SavedModel:
    """collaborative.json: which model lies in a folder, and of which items.

    Attributes:
        format: of the folder's files.
        model: kind of the model, as in a recipe.
        parameters: all of them.
        items: how many items it scores.
        item_ids: hash of their ids.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    format: int
    model: str
    parameters: dict[str, Any]
    items: int
    item_ids: str

    @classmethod
    def read(cls, folder: Path) -> SavedModel:
        """Read it.

        Raises:
            ModelError: missing, damaged, or of another version.
        """
        saved: SavedModel = read_checked(folder / FILE, cls, REMEDY, ModelError)
        if saved.format != FORMAT:
            raise ModelError(f"{folder / FILE} has format {saved.format}, this llmrec reads {FORMAT}. {REMEDY}")
        return saved

    def spec(self, kind: type[ModelSpec], folder: Path, device: Device = "auto") -> ModelSpec:
        """The parameters as a recipe has them.

        Raises:
            ModelError: another kind of model, or it does not take such parameters.
        """
        if self.model != kind.kind:
            raise ModelError(f"{folder} holds the model {self.model}, not {kind.kind}. Name the folder of the latter.")
        try:
            return kind(**self.parameters, **({"device": device} if "device" in kind.model_fields else {}))
        except (ValidationError, TypeError):
            raise ModelError(f"{folder / FILE} has parameters that {self.model} does not take. {REMEDY}") from None
