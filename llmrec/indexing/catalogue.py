"""The catalogue folder: the one authority on item ↔ code ↔ tokens, named by its hash."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.errors import CodeError
from llmrec.files import hash_json, read_json, write_json
from llmrec.indexing.codes import Ends, symbols
from llmrec.indexing.trie import Trie
from llmrec.items.text import titles

FORMAT = 1


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
        if not (folder / "catalogue.json").is_file():
            raise CodeError(f"{folder} is not a catalogue folder: it has no catalogue.json. `llmrec run` makes one.")
        about = read_json(folder / "catalogue.json")
        if about["format"] != FORMAT:
            raise CodeError(
                f"{folder} has catalogue format {about['format']}, this llmrec reads {FORMAT}. Run the recipe again."
            )
        symbol = {token: number for number, token in enumerate(about["tokens"])}
        try:
            items, codes = pq.read_table(folder / "items.parquet"), pq.read_table(folder / "codes.parquet")
            table = _padded([[symbol[token] for token in code] for code in codes["code"].to_pylist()])
        except KeyError as error:
            raise CodeError(
                f"{folder}/codes.parquet names the token {error}, which catalogue.json does not have. "
                "Run the recipe again."
            ) from None
        except (OSError, pa.ArrowException) as error:
            raise CodeError(f"{folder} is not whole ({error}). Run the recipe again.") from error
        how = about.get("ends", "separating"), tuple(about.get("extends", ()))
        catalogue = cls(items, table, about["tokens"], Trie.load(folder), *how)
        intact = catalogue.hash == about["hash"] and catalogue.trie.hash == about.get("trie")
        if not intact or codes["item_id"].to_pylist() != catalogue.item_ids:
            raise CodeError(f"{folder} was changed since it was written (its hash differs). Run the recipe again.")
        return catalogue


def _padded(rows: list[list[int]]) -> np.ndarray:
    """(rows, longest) int32, padded at the end by -1."""
    table = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int32)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table
