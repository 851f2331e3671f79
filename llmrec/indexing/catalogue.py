"""The catalogue folder: items, their codes and their tokens, identified by a hash.

items.parquet holds the items, codes.npy their codes, row by row. Both stay arrays when they are loaded, so a catalogue
may have ten million items; Python lists of them are made only when a caller reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from llmrec.checked import read_array, read_checked, read_table
from llmrec.errors import CodeError
from llmrec.files import write_json
from llmrec.indexing.codes import Suffix, to_symbols
from llmrec.indexing.ids import IdIndex, flat, hash_ids
from llmrec.indexing.trie import Trie
from llmrec.items.item_text import item_titles

FORMAT = 3
ABOUT, ITEMS, CODES, HEALTH = "catalogue.json", "items.parquet", "codes.npy", "health.json"
HASH_DIGITS = 16  # of the hash, in the name of a folder
REMEDY = "Copy the folder again, or make it again: `llmrec run` its recipe, and `llmrec export` the run."


class _Format(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    format: int


def _level_by_level(tokens: list[str]) -> list[str]:
    """Check that tokens are named as by `Catalogue.of_symbols`."""
    widths = Counter(token.split("_")[0] for token in tokens)
    if tokens != _level_tokens(widths.values()):
        raise ValueError("tokens must be <a_0>, <a_1>, … of each level in turn, <b_0> after the last of them")
    return tokens


def _level_tokens(widths: Iterable[int]) -> list[str]:
    """Names of the tokens of levels with these widths: <a_0>, <a_1>, …, <b_0>, …"""
    return [f"<{chr(97 + level)}_{number}>" for level, width in enumerate(widths) for number in range(width)]


class About(BaseModel):
    """catalogue.json, see `Catalogue`; `items` is a count, `tokens` is None for items without codes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: int
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    items: Annotated[int, Field(ge=1)]
    suffix: Suffix = "dedup"
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


@dataclass(frozen=True)
class ItemCatalogue:
    """Items (item_id, title, …) without codes; the item number is the row."""

    items: pa.Table

    def __len__(self) -> int:
        return int(self.items.num_rows)

    @cached_property
    def ids(self) -> pa.Array:
        """(items,) large_string item ids."""
        return flat(self.items["item_id"])

    @cached_property
    def index(self) -> IdIndex:
        """Item numbers by item id."""
        return IdIndex.build(self.ids)

    def number(self, item_id: str) -> int:
        """The item number of an id, in a few microseconds; -1 for an unknown id."""
        return self.index.number(item_id)

    def numbers(self, item_ids: Iterable[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """(n,) int64 item numbers of n ids; -1 for an unknown id."""
        return self.index.numbers(item_ids)

    def ids_of(self, numbers: np.ndarray | list[int]) -> list[str]:
        """(n,) item ids by item number."""
        return self.ids.take(pa.array(numbers, pa.int64())).to_pylist()

    def titles_of(self, numbers: np.ndarray | list[int]) -> list[str]:
        """(n,) display titles by item number."""
        names = [name for name in ("item_id", "title") if name in self.items.column_names]
        return item_titles(self.items.select(names).take(pa.array(numbers, pa.int64())))

    @cached_property
    def item_ids(self) -> list[str]:
        """All item ids as a Python list."""
        return self.ids.to_pylist()

    @cached_property
    def item_number(self) -> dict[str, int]:
        """All item numbers by item id, as a Python dictionary."""
        return {item_id: number for number, item_id in enumerate(self.item_ids)}

    @cached_property
    def titles(self) -> list[str]:
        """All display titles as a Python list."""
        return item_titles(self.items)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the item ids."""
        return hash_ids(self.ids)

    def save(self, folder: Path, health: dict[str, Any] | None = None) -> None:
        """Write items.parquet, the health report if there is one, and, last, catalogue.json."""
        pq.write_table(self.items, folder / ITEMS)
        if health is not None:
            write_json(folder / HEALTH, health)
        write_json(folder / ABOUT, {"format": FORMAT, "hash": self.hash, "items": len(self)} | self._about())

    def _about(self) -> dict[str, Any]:
        return {}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a catalogue folder and check its hash; codes are memory-mapped.

        Raises:
            CodeError: not a catalogue folder, of another format, changed since it was written, or without codes if
                this class needs them.
        """
        catalogue = load_catalogue(folder)
        if not isinstance(catalogue, cls):
            raise CodeError(f"{folder} holds items without codes (`indexing: none`), and codes are needed here.")
        return catalogue


@dataclass(frozen=True)
class Catalogue(ItemCatalogue):
    """Items and their codes.

    Attributes:
        codes: (items, levels) int32 symbols, padded at the end by -1; symbol s is the token `tokens[s]`.
        tokens: every item token, reserved ones included, level by level.
        suffix: how codes end. dedup: with a token of the deduplication level; per-item: with a token that one item has;
            both levels have reserved tokens for new items. reassigned: as the quantizer assigns them, collisions moved
            to free codes. none: with the last digit of a number.
        extends: hashes of the catalogues that this one added items to, oldest first; a model trained on one of them can
            be used with this one.
        trie: of the codes.

    Raises:
        CodeError: codes repeat, begin one another, or have symbols out of range.
    """

    codes: np.ndarray
    tokens: list[str]
    suffix: Suffix = "dedup"
    extends: tuple[str, ...] = ()
    trie: Trie = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "trie", Trie.build(self.codes, len(self.tokens)))

    @classmethod
    def of(cls, items: pa.Table, codes: np.ndarray, widths: list[int]) -> Catalogue:
        """A catalogue from (items, levels) codes, each below the width of its level."""
        if (codes >= np.asarray(widths)).any() or (codes < 0).any():
            raise CodeError("a code lies outside its level's width. Codes and widths come from different codebooks.")
        return cls.of_symbols(items, to_symbols(codes, range(codes.shape[1]), widths), widths)

    @classmethod
    def of_symbols(
        cls,
        items: pa.Table,
        codes: np.ndarray,
        widths: list[int],
        suffix: Suffix = "dedup",
        extends: tuple[str, ...] = (),
    ) -> Catalogue:
        """A catalogue from (items, longest) symbols; the symbols of a level follow those of the level before.

        Raises:
            CodeError: codes repeat, begin one another, or have symbols out of range.
        """
        return cls(items, codes, _level_tokens(widths), suffix, extends)

    @cached_property
    def widths(self) -> list[int]:
        """Tokens of each level, reserved ones included."""
        return list(Counter(token.split("_")[0] for token in self.tokens).values())

    @property
    def first_of_last(self) -> int:
        """The first symbol of the last level."""
        return len(self.tokens) - self.widths[-1]

    @cached_property
    def prefixes(self) -> tuple[np.ndarray, np.ndarray]:
        """(items, longest) int32 codes without their last symbol, padded at the end by -1, and (items,) that symbol."""
        ends = (np.arange(len(self.codes)), (self.codes >= 0).sum(axis=1) - 1)
        prefixes, last = self.codes.copy(), self.codes[ends]
        prefixes[ends] = -1
        return prefixes, last

    @property
    def lineage(self) -> tuple[str, ...]:
        """Hashes of the catalogues whose models can be used with this one, its own last."""
        return (*self.extends, self.hash)

    def codes_as_text(self, numbers: np.ndarray | list[int] | slice = slice(None)) -> pa.Array:
        """(n,) codes as text, such as `<a_3><b_17><c_0><d_1>`; of all items, or by number."""
        tokens = pa.array(self.tokens, pa.string())
        columns = [tokens.take(pa.array(column, mask=column < 0)) for column in self.codes[numbers].T]
        return pc.binary_join_element_wise(*columns, "", null_handling="skip")

    @cached_property
    def code_texts(self) -> list[str]:
        """All codes as text, as a Python list."""
        return self.codes_as_text().to_pylist()

    @cached_property
    def hash(self) -> str:
        """SHA-256 over item ids, codes and tokens; a model is bound to the catalogue of this hash."""
        return hash_codes(self.ids, self.codes, self.tokens)

    def save(self, folder: Path, health: dict[str, Any] | None = None) -> None:
        """Write codes.npy and the files of `ItemCatalogue.save`."""
        np.save(folder / CODES, np.ascontiguousarray(self.codes, "<i4"))
        super().save(folder, health)

    def _about(self) -> dict[str, Any]:
        return {"suffix": self.suffix} | ({"extends": self.extends} if self.extends else {}) | {"tokens": self.tokens}


def hash_codes(ids: pa.Array, codes: np.ndarray, tokens: list[str]) -> str:
    """SHA-256 of (items,) large_string ids, (items, longest) int32 symbols, and tokens by symbol."""
    digest = hashlib.sha256(json.dumps([hash_ids(ids), codes.shape, tokens]).encode())
    digest.update(np.ascontiguousarray(codes, "<i4").data)
    return digest.hexdigest()


def load_catalogue(folder: Path) -> ItemCatalogue | Catalogue:
    """Open a catalogue folder, with or without codes, and check that its files belong together.

    Raises:
        CodeError: not a catalogue folder, of another format, changed since it was written, an item occurs twice, or
            codes are invalid.
    """
    about = About.load(folder)
    items = read_table(folder / ITEMS, {"item_id": pa.string()}, REMEDY, CodeError)
    catalogue = ItemCatalogue(items) if about.tokens is None else _coded(folder, items, about, about.tokens)
    if catalogue.index.has_duplicates:
        raise CodeError(f"{folder / ITEMS} has an item_id twice. {REMEDY}")
    if len(catalogue) != about.items or catalogue.hash != about.hash:
        raise CodeError(f"{folder} was changed since it was written (its hash differs). {REMEDY}")
    return catalogue


def _coded(folder: Path, items: pa.Table, about: About, tokens: list[str]) -> Catalogue:
    codes = read_array(folder / CODES, 2, REMEDY, CodeError, mapped=True)
    if codes.dtype != np.int32 or len(codes) != len(items):
        raise CodeError(
            f"{folder / CODES} must hold {len(items)} rows of int32, not {codes.dtype} of {codes.shape}. {REMEDY}"
        )
    try:  # codes with a correct hash could still repeat, or have symbols out of range
        return Catalogue(items, codes, tokens, about.suffix, about.extends)
    except CodeError as error:
        raise CodeError(f"{folder / CODES}: {error}") from error


def find_catalogue(trained: Path, added: Path, hash_prefix: str | None = None) -> Path:
    """The catalogue folder of a run whose hash begins with a prefix; the one with most items if no prefix is given.

    Args:
        trained: the catalogue that the model was trained on.
        added: folder of catalogues with items that were added later.
        hash_prefix: first characters of a hash.

    Raises:
        CodeError: there is none, or several match.
    """
    folders = [trained, *sorted(added.glob("[!.]*"))]
    about = {folder: About.load(folder) for folder in folders if (folder / ABOUT).is_file()}
    matches = [folder for folder, facts in about.items() if facts.hash.startswith(hash_prefix or "")]
    if not matches or (hash_prefix and len(matches) > 1):
        known = ", ".join(facts.hash[:HASH_DIGITS] for facts in about.values()) or "none"
        raise CodeError(
            f"{len(matches)} catalogues of {trained} and {added} have a hash that begins with '{hash_prefix or ''}'. "
            f"There are: {known}. `llmrec run` makes one."
        )
    return max(matches, key=lambda folder: (about[folder].items, folder.name))
