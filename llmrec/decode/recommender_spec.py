"""Specification of a recommender: a tree of models, in a run's plan and in an export's recommender.json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from llmrec.checked import check_value, read_checked
from llmrec.errors import ModelError
from llmrec.files import write_json

SPEC_FILE = "recommender.json"
REMEDY = "Copy the folder again, or make it again with `llmrec export`."
_STRICT = with_config(ConfigDict(extra="forbid"))


def _below(folder: str) -> str:
    """Refuse a folder that is not below the run or the export."""
    if PurePath(folder).is_absolute() or ".." in PurePath(folder).parts or "\0" in folder:
        raise ValueError("it must be a folder below this one")
    return folder


_Folder = Annotated[str, Field(min_length=1), AfterValidator(_below)]
_Count = Annotated[int, Field(ge=1, lt=2**31)]


@_STRICT
class RecommenderSpec(TypedDict):
    """Specification of a recommender.

    `catalogue` and all other folders are below the run or the export. `recommender` is a node: its `kind` and the
    fields of that kind (`NODES`); an ensemble has nodes in its `members`.
    """

    format: Literal[1]
    name: str
    exclude_seen: bool
    catalogue: _Folder
    recommender: dict[str, Any]


@_STRICT
class GenerativeNode(TypedDict):
    """A language model that generates codes: its folder, and the beams of its search."""

    kind: Literal["generative"]
    folder: _Folder
    beams: _Count


@_STRICT
class CollaborativeNode(TypedDict):
    """A fitted collaborative model: its folder, and that of the catalogue that it was fitted on."""

    kind: Literal["collaborative"]
    folder: _Folder
    items: _Folder


@_STRICT
class MemberNode(TypedDict):
    """A member of an ensemble, see `recommenders.Member`."""

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    depth: _Count
    recommender: dict[str, Any]


def _some_weight(members: list[MemberNode]) -> list[MemberNode]:
    if not sum(member["weight"] for member in members):
        raise ValueError("a member must have a weight above 0")
    return members


@_STRICT
class EnsembleNode(TypedDict):
    """A mixture of several recommenders."""

    kind: Literal["ensemble"]
    members: Annotated[list[MemberNode], AfterValidator(_some_weight)]


NODES: dict[str, Any] = {"generative": GenerativeNode, "collaborative": CollaborativeNode, "ensemble": EnsembleNode}
"""Kind of a node → its fields; `load.KINDS` loads them."""


def read_spec(folder: Path) -> RecommenderSpec:
    """Read recommender.json of an export; a ModelError if it is missing or damaged."""
    spec: RecommenderSpec = read_checked(folder / SPEC_FILE, RecommenderSpec, REMEDY, ModelError)
    _check(spec["recommender"], folder / SPEC_FILE)
    return spec


def write_spec(folder: Path, spec: RecommenderSpec) -> None:
    """Write recommender.json into an export."""
    write_json(folder / SPEC_FILE, spec)


def iter_nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Iterate over a node and all nodes below it."""
    yield node
    for member in node.get("members", []):
        yield from iter_nodes(member["recommender"])


def _check(node: dict[str, Any], path: Path) -> None:
    """Raise a ModelError unless a node and all nodes below it have the fields of their kinds."""
    kind = node.get("kind")
    if not isinstance(kind, str) or kind not in NODES:
        raise ModelError(f"{path} has a recommender of the kind {kind!r:.60}; known are: {', '.join(NODES)}. {REMEDY}")
    check_value(node, NODES[kind], path, REMEDY, ModelError)
    for member in node.get("members", []):
        _check(member["recommender"], path)
