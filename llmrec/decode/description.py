"""What a recommender is made of, as a run's plan and an export's recommender.json describe it: a tree of kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from llmrec.checked import check_value, read_checked
from llmrec.errors import ModelError
from llmrec.files import write_json

FILE = "recommender.json"
REMEDY = "Copy the folder again, or make it again with `llmrec export`."
_STRICT = with_config(ConfigDict(extra="forbid"))


def _below(folder: str) -> str:
    """Refuse a folder that does not lie below the one that is described."""
    if PurePath(folder).is_absolute() or ".." in PurePath(folder).parts or "\0" in folder:
        raise ValueError("it must be a folder below this one")
    return folder


_Folder = Annotated[str, Field(min_length=1), AfterValidator(_below)]
_Count = Annotated[int, Field(ge=1, lt=2**31)]


@_STRICT
class Description(TypedDict):
    """What a recommender is made of.

    `catalogue` and all other folders are below the run or the export. `recommender` is a node: `kind`, and what that
    kind needs (`NODES`). Nodes of an ensemble are in its `members`.
    """

    format: Literal[1]
    name: str
    exclude_seen: bool
    catalogue: _Folder
    recommender: dict[str, Any]


@_STRICT
class GenerativeNode(TypedDict):
    """A language model that writes codes, in a model folder; `beams` are kept by a search."""

    kind: Literal["generative"]
    folder: _Folder
    beams: _Count


@_STRICT
class CollaborativeNode(TypedDict):
    """A fitted collaborative model; `items` is the folder of the catalogue that it was fitted on."""

    kind: Literal["collaborative"]
    folder: _Folder
    items: _Folder


@_STRICT
class MemberNode(TypedDict):
    """A member of an ensemble; see `recommenders.Member`."""

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    depth: _Count
    recommender: dict[str, Any]


def _weighted(members: list[MemberNode]) -> list[MemberNode]:
    if not sum(member["weight"] for member in members):
        raise ValueError("a member must have a weight above 0")
    return members


@_STRICT
class EnsembleNode(TypedDict):
    """Several recommenders."""

    kind: Literal["ensemble"]
    members: Annotated[list[MemberNode], AfterValidator(_weighted)]


NODES: dict[str, Any] = {"generative": GenerativeNode, "collaborative": CollaborativeNode, "ensemble": EnsembleNode}
"""Kind → what a node of it holds; `opened.KINDS` opens them."""


def read_description(folder: Path) -> Description:
    """recommender.json of an export; a ModelError where it is missing or damaged."""
    description: Description = read_checked(folder / FILE, Description, REMEDY, ModelError)
    _check(description["recommender"], folder / FILE)
    return description


def write_description(folder: Path, description: Description) -> None:
    """Write recommender.json into an export."""
    write_json(folder / FILE, description)


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a description and all below it."""
    yield node
    for member in node.get("members", []):
        yield from nodes(member["recommender"])


def _check(node: dict[str, Any], path: Path) -> None:
    """Raise a ModelError unless a node and all below it hold what their kinds need."""
    kind = node.get("kind")
    if not isinstance(kind, str) or kind not in NODES:
        raise ModelError(f"{path} has a recommender of the kind {kind!r:.60}; there are: {', '.join(NODES)}. {REMEDY}")
    check_value(node, NODES[kind], path, REMEDY, ModelError)
    for member in node.get("members", []):
        _check(member["recommender"], path)
