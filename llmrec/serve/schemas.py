"""Schemas of the JSON of all routes, from which OpenAPI is generated, and errors of requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from starlette.responses import JSONResponse

from llmrec.errors import LlmrecError


class ColumnConstraint(BaseModel):
    """A condition on the cells of a column; an item must meet all given fields."""

    model_config = ConfigDict(extra="forbid", strict=True)
    any: list[str] = Field([], description="one of these values", max_length=100)
    none: list[str] = Field([], description="none of these values", max_length=100)
    min: float | None = Field(None, description="a number of at least this", allow_inf_nan=False)
    max: float | None = Field(None, description="a number of at most this", allow_inf_nan=False)

    @model_validator(mode="after")
    def _not_empty(self) -> ColumnConstraint:
        if not (self.any or self.none) and self.min is None and self.max is None:
            raise ValueError("give `any`, `none`, `min` or `max`")
        return self


class RecommendRequest(BaseModel):
    """A request for recommendations: for whom, how many, and among which items."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"history": ["50", "181"]}]})
    history: list[str] | None = Field(None, description="item ids, oldest first; [] returns popular items. Or `user`.")
    user: str | None = Field(None, description="a user id of the run's data, instead of `history`")
    k: int = Field(10, ge=1, description="number of items")
    query: str | None = Field(None, description="free text, for a model that was trained to search by it")
    allow: list[str] | None = Field(None, description="item ids, the only ones returned")
    deny: list[str] = Field([], description="item ids that are never returned")
    category: str | dict[str, str] | None = Field(
        None, description='a value of one of the items\' columns: "Comedy", or {"genres": "Comedy"}'
    )
    where: dict[str, ColumnConstraint] = Field(
        {}, description='column → constraint: {"year": {"min": 1990, "max": 1999}, "genres": {"none": ["Horror"]}}'
    )
    exclude_seen: bool | None = Field(
        None, description="exclude items of the history; by default as in the evaluation of the model, mostly true"
    )


class BatchRecommendRequest(BaseModel):
    """Several requests; if one of them is refused, all are."""

    model_config = ConfigDict(extra="forbid", strict=True)
    requests: list[RecommendRequest] = Field(min_length=1)


def _kind(body: Any) -> str:
    return "several" if isinstance(body, dict) and "requests" in body else "one"


RecommendBody = Annotated[
    Annotated[RecommendRequest, Tag("one")] | Annotated[BatchRecommendRequest, Tag("several")], Discriminator(_kind)
]


class RecommendedItem(BaseModel):
    """A recommended item."""

    item_id: str
    title: str
    score: float = Field(description="log-probability among the catalogue's items, in nats")
    share: float = Field(description="probability among the items of this list; they sum to 1")


class Timing(BaseModel):
    """Time of a request in milliseconds."""

    prepared: float = Field(description="reading the request")
    waited: float = Field(description="for the model")
    ranked: float = Field(description="the model and the search")
    total: float


class RecommendResponse(BaseModel):
    """The items for one request, best first; fewer than k if the filters leave fewer."""

    request_id: str
    model: str
    catalogue: str = Field(description="hash of the catalogue of the items")
    ranked_by: Literal["model", "popularity"]
    items: list[RecommendedItem]
    unknown: list[str] = Field(description="item ids of the request that the catalogue lacks, 100 at most")
    notes: list[str] = Field(description="what the answer lacks, and why")
    timing_ms: Timing


class BatchRecommendResponse(BaseModel):
    """Answers of several requests, in order."""

    answers: list[RecommendResponse]


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: int
    request_id: str


class ErrorResponse(BaseModel):
    """An error, in the form of OpenAI's API."""

    error: ErrorDetail


class SwitchCatalogueRequest(BaseModel):
    """The catalogue to switch to."""

    model_config = ConfigDict(extra="forbid", strict=True)
    hash: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256, as in its catalogue.json")


class CataloguesResponse(BaseModel):
    """The active catalogue and all known ones, by hash."""

    catalogue: str = Field(description="the active one")
    items: int
    known: list[str] = Field(description="all that the server can switch to")
    skipped: list[str] = Field([], description="folders that are no catalogues, and why; only with the admin's key")


class ListedItem(BaseModel):
    """An item of the catalogue."""

    item_id: str
    title: str
    code: str = Field(description="its code, as the model generates it")
    columns: dict[str, Any] = Field(description="all other columns of the catalogue")


class ItemsResponse(BaseModel):
    """A page of items in the order of the catalogue."""

    model_config = ConfigDict(ser_json_bytes="base64")  # a column may contain bytes that are no text
    catalogue: str = Field(description="hash of the catalogue of the items")
    total: int = Field(description="number of items on all pages")
    start: int
    items: list[ListedItem]


class VersionResponse(BaseModel):
    """Versions, engine, model and catalogue of a server."""

    version: str = Field(description="of vLLM, or of transformers")
    llmrec: str
    engine: str
    model: str
    catalogue: str
    queries: bool = Field(description="whether the model was trained with queries")


ERROR_TYPES = {
    400: "malformed_request",
    401: "wrong_key",
    403: "not_allowed",
    404: "not_found",
    405: "not_found",
    408: "too_slow",
    413: "too_large",
    415: "not_json",
    421: "wrong_host",
    422: "bad_request",
    429: "busy",
    500: "server_error",
    503: "stopping",
}


class ApiError(LlmrecError):
    """A refused request: an HTTP status and a message, which quotes only names and ids of the client."""

    def __init__(self, status: int, message: str, param: str | None = None, **headers: str) -> None:
        """Refuse with a status of `ERROR_TYPES`, because of the field `param`; headers have underscores for hyphens."""
        super().__init__(message)
        self.status, self.param = status, param
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self, request_id: str) -> JSONResponse:
        """The HTTP response, an `ErrorResponse`."""
        detail = {"message": str(self), "type": ERROR_TYPES[self.status], "param": self.param, "code": self.status}
        return JSONResponse({"error": {**detail, "request_id": request_id}}, self.status, self.headers)
