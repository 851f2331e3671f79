"""Recipe parts `data`, `items` and `indexing`: the source and its cleaning, item text, and item codes."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from llmrec.recipe.part import Float, Int, Part, Positive, Seed, Share


class Columns(Part):
    """Column names of the user's own files: our name → the name in the file."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = "timestamp"
    rating: str | None = None
    item_key: str | None = Field(None, description="id column of the item file, if it differs from item_id")
    title: str | None = Field(None, description="title column of the item file")
    review: str | None = Field(None, description="the user's review text")
    summary: str | None = Field(None, description="headline of the review")
    split: str | None = Field(None, description="for `split: column`: train, valid or test of each interaction")


class SyntheticConfig(Part):
    """Synthetic data with a known ground truth, for `data.source: synthetic`."""

    seed: Seed = Field(0, description="seed of the data; independent of the run's seed")
    users: Positive = 500
    items: Positive = 200
    groups: Positive = Field(8, description="item groups, each with its own vocabulary; a user prefers one group")
    events: Annotated[Int, Field(ge=3)] = Field(12, description="events per user on average; from half to 1.5 times it")
    order: Annotated[Float, Field(ge=0, le=0.99)] = Field(
        0.5, description="probability that the next item is the fixed successor of the last one"
    )
    taste: Share = Field(
        0.3, description="probability that the next item is of the user's group; otherwise by popularity"
    )
    popularity: Annotated[Float, Field(ge=0)] = Field(0.8, description="Zipf exponent of popularity; 0: uniform")

    @model_validator(mode="after")
    def _probabilities_fit(self) -> SyntheticConfig:
        if self.order + self.taste > 1:
            raise ValueError(f"order + taste must be at most 1, not {self.order} + {self.taste}")
        if self.items < 2 * self.groups or self.items <= 2 * self.events:
            raise ValueError(
                "items must be at least 2 x groups and more than 2 x events, since no user has an item twice"
            )
        return self


Source = Literal[
    "ml-100k",
    "ml-1m",
    "ml-32m",
    "ml-latest-small",
    "amazon-beauty-2014",
    "amazon-games-2018",
    "amazon-reviews-2014",
    "amazon-reviews-2018",
    "amazon-reviews-2023",
    "files",
    "synthetic",
]


def _check_date(text: str) -> str:
    """Refuse dates that do not exist, such as 2015-02-29."""
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"not a date or time ({error}); write it as 2014-01-31 or 2014-01-31 23:59") from None
    return text


Day = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?$"),
    AfterValidator(_check_date),
]


class Data(Part):
    """The source of interactions and items, and how they are cleaned and split."""

    NOT_HASHED: ClassVar[frozenset[str]] = frozenset({"interactions", "items"})
    source: Source = "ml-100k"
    category: str | None = Field(
        None, description="for amazon-reviews-…: the category as in the file names, such as Beauty"
    )
    interactions: str | None = Field(
        None,
        description="for `source: files`: path of a CSV, TSV, JSONL or Parquet file, plain or .gz; * matches several",
    )
    items: str | None = Field(None, description="path of the catalogue, in the same formats")
    columns: Columns = Columns()
    synthetic: SyntheticConfig = SyntheticConfig()
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="CSV: separator of columns; null: detected from the header"
    )
    encoding: str | None = Field(None, description="of files that are not UTF-8; null: Windows-1252")
    day_first: bool | None = Field(None, description="whether 3/4/2021 is 3 April; null: detected from the column")
    since: Day | None = Field(None, description="drop events before this date, or date and time, in UTC")
    until: Day | None = Field(None, description="drop events at or after this date")
    min_rating: Float | None = Field(None, description="drop events with a lower rating")
    min_text: Annotated[Int, Field(ge=0)] = Field(0, description="drop items with a shorter title, in characters")
    k_core: Annotated[Int, Field(ge=0)] = Field(
        0, description="drop users and items with fewer events, until none is left"
    )
    catalogue: Literal["all", "seen"] | None = Field(
        None, description="all items, or only those with events (seen); null: seen for raw Amazon files, else all"
    )
    max_users: Positive | None = Field(None, description="keep a random sample of this many users")
    max_bad_rows: Annotated[int, Field(ge=0, le=2**53)] = Field(
        0, description="malformed rows to drop; with more, the run fails"
    )
    split: Literal["leave-one-out", "temporal", "cold-items", "cold-users", "column"] = "leave-one-out"
    holdout_fraction: Annotated[Float, Field(gt=0, lt=0.5)] = Field(
        0.1, description="share of test, and of validation; not used by leave-one-out and column"
    )

    def hashed_fields(self) -> dict[str, Any]:
        """See `Part.hashed_fields`; of files only the names, since their content is hashed."""
        named = {"interactions": self.interactions, "items": self.items}
        return super().hashed_fields() | {key: Path(path).name for key, path in named.items() if path}

    @model_validator(mode="after")
    def _files_are_named(self) -> Data:
        if self.source == "files" and not (self.interactions and self.items):
            raise ValueError("source: files needs both `interactions` and `items`, each the path of a file")
        if self.split == "column" and not (self.source == "files" and self.columns.split):
            raise ValueError("split: column needs source: files and `columns.split`, the name of the column")
        return self


class ItemText(Part):
    """The text of an item, and the encoder that turns it into a vector."""

    text: Annotated[list[str], Field(min_length=1)] = Field(["title"])
    encoder: Literal["minilm-l6", "hashing"] = "minilm-l6"
    missing_text: Literal["refuse", "item-id"] = Field(
        "refuse", description="items without text: stop with an error, or use the item id"
    )


IndexMethod = Literal[
    "rq-kmeans",
    "balanced-rq-kmeans",
    "rq-vae",
    "kmeans-tree",
    "pq",
    "opq",
    "sequential",
    "collaborative",
    "title",
    "category",
    "number",
    "item",
]


class Indexing(Part):
    """How each item gets a short code of tokens."""

    method: IndexMethod = "rq-kmeans"
    fusion: Literal["text", "collaborative", "ppmi", "concat", "weighted", "aligned"] = Field(
        "text",
        description="vectors that are quantized: of the item text, of a collaborative model, or both combined",
    )
    collaborative_model: Literal["bpr", "lightgcn", "sasrec", "ppmi"] = Field(
        "lightgcn", description="fusion: collaborative, concat, weighted, aligned — model whose item vectors are used"
    )
    fusion_weight: Share = Field(
        0.5, description="fusion: weighted — weight of the collaborative vectors; the text gets the rest"
    )
    levels: Annotated[Int, Field(ge=1, le=8)] = 3
    width: Annotated[Int, Field(ge=2, le=65536)] = 256
    epochs: Positive = Field(
        2000, description="rq-vae: maximum epochs; training stops when the held-out error stops falling"
    )
    category_column: str = Field(
        "category", description="column with the category path, for method: category and for the health report"
    )
    append: list[IndexMethod] = Field([], description="further methods whose codes are appended, such as [item]")
    bpe_vocab: Positive | None = Field(
        None, description="vocabulary size of a SentencePiece BPE model over the codes; frequent codes get fewer tokens"
    )
    collisions: Literal["extra-level", "sinkhorn", "reassign"] = Field(
        "extra-level",
        description="how items with equal codes get different ones: one more token, or another code of the last level",
    )
    reserved_tokens: Annotated[Int, Field(ge=0)] = Field(
        8, description="unused tokens of the deduplication level, kept for new items"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Indexing:
        reassigns = self.collisions != "extra-level"
        if reassigns and (self.method in _NO_QUANTIZER or self.append or self.bpe_vocab):
            raise ValueError(
                f"collisions: {self.collisions} moves items between the codes of one quantizer, so it needs such a "
                "method, without append and bpe_vocab. Use collisions: extra-level"
            )
        if self.bpe_vocab and (self.method in ("sequential", "number", "item", "title") or self.append):
            raise ValueError("bpe_vocab: needs codes of several levels with shared tokens, such as those of rq-kmeans")
        numbers = [name for name in self.append if name in ("sequential", "number")]
        if numbers or ("item" in (self.method, *self.append[:-1]) and self.append):
            raise ValueError(
                f"append: {', '.join([self.method, *self.append])} is in the wrong order: "
                "sequential and number come first (method), item comes last"
            )
        return self

    @property
    def behaves(self) -> bool:
        """Whether codes, or the vectors that embedding rows may start from, depend on interactions."""
        return self.fusion != "text" or bool(
            {"sequential", "collaborative"} & {self.method, *self.append} or self.bpe_vocab
        )


_NO_QUANTIZER = ("sequential", "collaborative", "title", "category", "number", "item")
