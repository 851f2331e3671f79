"""`indexing`: how items get their codes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llmrec.recipe.part import Int, Part, Positive, Share

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
    """How an item becomes a short code of tokens."""

    method: IndexMethod = "rq-kmeans"
    vectors: Literal["text", "teacher", "ppmi", "concat", "weighted", "aligned"] = Field(
        "text", description="what vector methods quantize: text, a teacher's item vectors, both put together"
    )
    teacher: Literal["bpr", "lightgcn", "sasrec", "ppmi"] = Field(
        "lightgcn", description="vectors: teacher, concat, weighted, aligned — whose item vectors"
    )
    weight: Share = Field(0.5, description="vectors: weighted — share of the teacher's part; the rest is the text's")
    levels: Annotated[Int, Field(ge=1, le=8)] = 3
    width: Annotated[Int, Field(ge=2, le=65536)] = 256
    epochs: Positive = Field(2000, description="rq-vae: passes at most; it ends when the held-out error stays")
    category: str = Field("category", description="category: the column with the path; of agreement in health, too")
    hybrid: list[IndexMethod] = Field([], description="methods whose codes follow those of `method`, such as [item]")
    pieces: Positive | None = Field(
        None, description="SentencePiece over the log's codes: tokens in all, of which frequent codes need fewer"
    )
    separate: Literal["last-level", "sinkhorn", "nearest-free"] = Field(
        "last-level",
        description="how items of one code are told apart: by a token more, or by moving on the last level",
    )
    spares: Annotated[Int, Field(ge=0)] = Field(
        8, description="unused tokens kept on the separating level for new items"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Indexing:
        moving = self.separate != "last-level"
        if moving and (self.method in _NO_QUANTIZER or self.hybrid or self.pieces):
            raise ValueError(
                f"separate: {self.separate} moves items between the codes of one quantizer, so it needs such a method, "
                "without hybrid and pieces. Use separate: last-level"
            )
        if self.pieces and (self.method in ("sequential", "number", "item", "title") or self.hybrid):
            raise ValueError("pieces: needs codes of several levels whose tokens are shared, such as rq-kmeans gives")
        numbers = [name for name in self.hybrid if name in ("sequential", "number")]
        if numbers or ("item" in (self.method, *self.hybrid[:-1]) and self.hybrid):
            raise ValueError(
                f"hybrid: {', '.join([self.method, *self.hybrid])} is in the wrong order: "
                "sequential and number come first (method), item comes last"
            )
        return self

    @property
    def behaves(self) -> bool:
        """Whether codes, or the vectors that rows may start from, depend on what users did and not on items alone."""
        return self.vectors != "text" or bool(
            {"sequential", "collaborative"} & {self.method, *self.hybrid} or self.pieces
        )


_NO_QUANTIZER = ("sequential", "collaborative", "title", "category", "number", "item")
