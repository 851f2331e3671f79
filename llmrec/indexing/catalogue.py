"""The catalogue folder: the one authority on item ↔ code ↔ tokens, named by its hash."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from llmrec.checked import read_checked, read_table
from llmrec.errors import CodeError
from llmrec.files import hash_json, write_json
from llmrec.indexing.codes import Ends, symbols
from llmrec.indexing.trie import Trie
from llmrec.items.text import titles

FORMAT = 1
REMEDY = "Copy the folder again, or make it again: `llmrec run` its recipe, and `llmrec export` the run."


class _Format(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    format: int


def _kind_by_kind(tokens: list[str]) -> list[str]:
    """Tokens as `Catalogue.of_symbols` names them: the numbers of each kind from 0 on, kind after kind."""
    widths = Counter(token.split("_")[0] for token in tokens)
    if tokens != [f"{kind}_{number}>" for kind, width in widths.items() for number in range(width)]:
        raise ValueError("tokens must be <a_0>, <a_1>, … of each kind in turn")
    return tokens


class About(BaseModel):
    """catalogue.json; see `Catalogue`.

    Attributes:
        format: of the folder's files.
        hash: of the catalogue.
        trie: hash of its trie.
        items: how many there are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: int
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    trie: str
    items: Annotated[int, Field(ge=1)]
    ends: Ends = "separating"
    extends: tuple[str, ...] = ()
    tokens: Annotated[list[str], Field(min_length=1), AfterValidator(_kind_by_kind)]

    @classmethod
    def load(cls, folder: Path) -> About:
        """Read catalogue.json of a catalogue folder.

        Raises:
            CodeError: not a catalogue folder, of another format, or damaged.
        """
        file = folder / "catalogue.json"
        if not file.is_file():
            raise CodeError(f"{folder} is not a catalogue folder: it has no catalogue.json. `llmrec run` makes one.")
        version = read_checked(file, _Format, REMEDY, CodeError)["format"]
        if version != FORMAT:
            raise CodeError(
                f"{folder} has catalogue format {version}, this llmrec reads {FORMAT}. Run the recipe again."
            )
        about: About = read_checked(file, cls, REMEDY, CodeError)
        return about


@dataclass(frozen=True)
class Catalogue:
    """Items and their codes.

    Attributes:
        items: item_id, title, …; row numbers are item numbers.
        codes: (items, levels) int32 symbols; symbol s is the token `tokens[s]`. A shorter code is padded at its end
            by -1.
        tokens: every item token, spares included, level by level.
        trie: over the codes.
        ends: how codes end. separating: with a token that tells twins apart, spares among them; own: with a token of
            the item's own, spares among them; moved: as the quantizer has it, twins moved to free codes; numbers: with
            the last digit of a number.
        extends: hashes of the catalogues that this one has added items to, oldest first; a model that was trained on
            one of them can be used with this one.
    """

    items: pa.Table
    codes: np.ndarray
    tokens: list[str]
    trie: Trie
    ends: Ends = "separating"
    extends: tuple[str, ...] = ()

    @classmethod
    def of(cls, items: pa.Table, codes: np.ndarray, widths: list[int]) -> Catalogue:
        """Name the tokens of codes given level by level.

        Args:
            items: the items table.
            codes: (items, levels) int32, each below its level's width; rows unique.
            widths: (levels,) tokens of each level.

        Raises:
            CodeError: codes repeat, or fall outside their level.
        """
        if (codes >= np.asarray(widths)).any() or (codes < 0).any():
            raise CodeError("a code lies outside its level's width. Codes and widths come from different codebooks.")
        return cls.of_symbols(items, symbols(codes, range(codes.shape[1]), widths), widths)

    @classmethod
    def of_symbols(cls, items: pa.Table, codes: np.ndarray, widths: list[int], ends: Ends = "separating") -> Catalogue:
        """Name the tokens of codes given in symbols.

        Args:
            items: the items table.
            codes: (items, longest) int32 symbols, padded at the end by -1; rows unique, none the beginning of another.
            widths: tokens of each kind; the symbols of a kind follow those of the kind before.
            ends: see `Catalogue`.

        Raises:
            CodeError: codes repeat, begin one another, or name symbols that there are not.
        """
        tokens = [f"<{chr(97 + kind)}_{number}>" for kind, width in enumerate(widths) for number in range(width)]
        return cls(items, codes, tokens, Trie.build(codes, len(tokens)), ends)

    @cached_property
    def item_ids(self) -> list[str]:
        """Item id by item number."""
        return self.items["item_id"].to_pylist()

    @cached_property
    def item_number(self) -> dict[str, int]:
        """Item number by item id."""
        return {item_id: number for number, item_id in enumerate(self.item_ids)}

    @cached_property
    def widths(self) -> list[int]:
        """Tokens of each level, spares included."""
        return list(Counter(token.split("_")[0] for token in self.tokens).values())

    @property
    def first_of_last(self) -> int:
        """The first symbol of the last kind of tokens."""
        return len(self.tokens) - self.widths[-1]

    @cached_property
    def prefixes(self) -> tuple[np.ndarray, np.ndarray]:
        """(items, longest) int32 codes without their last symbol, padded at the end by -1, and (items,) that symbol."""
        at = (np.arange(len(self.codes)), (self.codes >= 0).sum(axis=1) - 1)
        prefixes, last = self.codes.copy(), self.codes[at]
        prefixes[at] = -1
        return prefixes, last

    @property
    def lineage(self) -> tuple[str, ...]:
        """Hashes of the catalogues that a model may have been trained on to be used with this one, its own last."""
        return (*self.extends, self.hash)

    @cached_property
    def titles(self) -> list[str]:
        """A title to show, by item number."""
        return titles(self.items)

    @cached_property
    def code_texts(self) -> list[str]:
        """The code of each item as it stands in a prompt, such as `<a_3><b_17><c_0><d_1>`."""
        return ["".join(self.tokens[symbol] for symbol in row if symbol >= 0) for row in self.codes.tolist()]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over item ids, codes and tokens: what a model must have been trained on to be used with it."""
        return hash_json([self.item_ids, self.codes.tolist(), self.tokens])

    def save(self, folder: Path, health: dict[str, Any]) -> None:
        """Write the folder: items.parquet, codes.parquet, trie.*, health.json, catalogue.json."""
        pq.write_table(self.items, folder / "items.parquet")
        named = [[self.tokens[symbol] for symbol in row if symbol >= 0] for row in self.codes.tolist()]
        pq.write_table(
            pa.table({"item_id": self.item_ids, "code": pa.array(named, pa.list_(pa.string()))}),
            folder / "codes.parquet",
        )
        self.trie.save(folder)
        write_json(folder / "health.json", health)
        about = {"format": FORMAT, "hash": self.hash, "trie": self.trie.hash, "items": len(self.item_ids)}
        about |= {"ends": self.ends} | ({"extends": self.extends} if self.extends else {})
        write_json(folder / "catalogue.json", about | {"tokens": self.tokens})

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        """Open a catalogue folder and check codes and trie against their hashes.

        Raises:
            CodeError: not a catalogue folder, of another format, or changed since it was written.
        """
        about = About.load(folder)
        items = read_table(folder / "items.parquet", {"item_id": pa.string()}, REMEDY, CodeError)
        types = {"item_id": pa.string(), "code": pa.list_(pa.string())}
        codes = read_table(folder / "codes.parquet", types, REMEDY, CodeError)
        table = _codes(codes["code"].to_pylist(), about, folder)
        catalogue = cls(items, table, about.tokens, Trie.load(folder), about.ends, about.extends)
        _check_whole(catalogue, codes["item_id"].to_pylist(), about, folder)
        return catalogue


def _check_whole(catalogue: Catalogue, coded: list[str], about: About, folder: Path) -> None:
    """See that the files of a catalogue folder belong together.

    Raises:
        CodeError: they do not, or an item stands twice.
    """
    if len(catalogue.item_number) < len(catalogue.item_ids):
        raise CodeError(f"{folder / 'items.parquet'} has an item_id twice. {REMEDY}")
    if coded != catalogue.item_ids or len(coded) != about.items or catalogue.hash != about.hash:
        raise CodeError(f"{folder} was changed since it was written (its hash differs). {REMEDY}")
    try:  # arrays with a right hash of their own could still name items that there are not, or go in circles
        trie = Trie.build(catalogue.codes, len(catalogue.tokens))
    except CodeError as error:
        raise CodeError(f"{folder / 'codes.parquet'}: {error}") from error
    if not trie.hash == catalogue.trie.hash == about.trie:
        raise CodeError(f"the trie in {folder} is not that of its codes. {REMEDY}")


def _codes(codes: list[list[str | None]], about: About, folder: Path) -> np.ndarray:
    """Symbols of codes given as tokens, padded.

    Raises:
        CodeError: a token that there is not, or an empty code.
    """
    symbol: dict[str | None, int] = {token: number for number, token in enumerate(about.tokens)}
    try:
        return _padded([[symbol[token] for token in code] for code in codes])
    except KeyError as error:
        raise CodeError(
            f"{folder / 'codes.parquet'} names the token {error}, which catalogue.json does not have. {REMEDY}"
        ) from None


def _padded(rows: list[list[int]]) -> np.ndarray:
    """(rows, longest) int32, padded at the end by -1."""
    table = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int32)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table
