"""catalogue.json: what a catalogue folder says about its items and codes, checked as it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.errors import CodeError
from llmrec.indexing.codes import Ends

FORMAT = 2
ABOUT, ITEMS, CODES, HEALTH = "catalogue.json", "items.parquet", "codes.npy", "health.json"
FILES = (ABOUT, ITEMS, CODES, HEALTH)
REMEDY = "Copy the folder again, or make it again: `llmrec run` its recipe, and `llmrec export` the run."


class _Format(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    format: int


def _level_by_level(tokens: list[str]) -> list[str]:
    """Tokens as `Catalogue.of_symbols` names them: the numbers of each level from 0 on, level after level."""
    widths = Counter(token.split("_")[0] for token in tokens)
    if tokens != level_tokens(widths.values()):
        raise ValueError("tokens must be <a_0>, <a_1>, … of each level in turn, <b_0> after the last of them")
    return tokens


def level_tokens(widths: Iterable[int]) -> list[str]:
    """Tokens of levels of these widths: <a_0>, <a_1>, …, <b_0>, …"""
    return [f"<{chr(97 + level)}_{number}>" for level, width in enumerate(widths) for number in range(width)]


class About(BaseModel):
    """catalogue.json; see `Catalogue`.

    Attributes:
        format: of the folder's files.
        hash: of the catalogue.
        items: how many there are.
        tokens: None where items have no codes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: int
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    items: Annotated[int, Field(ge=1)]
    ends: Ends = "separating"
    extends: tuple[str, ...] = ()
    tokens: Annotated[list[str], Field(min_length=1), AfterValidator(_level_by_level)] | None = None

    @classmethod
    def load(cls, folder: Path) -> About:
        """Read catalogue.json of a catalogue folder.

        Raises:
            CodeError: not a catalogue folder, of another format, or damaged.
        """
        file = folder / ABOUT
        if not file.is_file():
            raise CodeError(f"{folder} is not a catalogue folder: it has no catalogue.json. `llmrec run` makes one.")
        version = read_checked(file, _Format, REMEDY, CodeError)["format"]
        if version != FORMAT:
            raise CodeError(
                f"{folder} has catalogue format {version}, this llmrec reads {FORMAT}. Nothing in it was changed. Run "
                "the recipe again, or open the folder with the llmrec that made it."
            )
        about: About = read_checked(file, cls, REMEDY, CodeError)
        return about
