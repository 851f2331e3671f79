"""A served run: a copy of the tiny one, with catalogues beside its own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from serving import changed, foreign, serving

from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe_file import dump
from llmrec.run.layout import recipe_of

sys.path.append(str(Path(__file__).parents[2] / "scripts"))  # where the attacks are


class ProcessorContext(NamedTuple):
    """A run and the hashes of its catalogues."""

    run: Path
    first: str
    second: str
    foreign: str


@pytest.fixture(scope="session")
def served(tiny_run, tmp_path_factory) -> ProcessorContext:
    run = tmp_path_factory.mktemp("served") / "films"
    shutil.copytree(tiny_run, run)
    (run / "recipe.yaml").write_text(dump(recipe_of(run, ["evaluate.exclude_seen=true", "evaluate.beams=50"])))
    first = Catalogue.load(run / "catalogue")
    second = changed(first, run / "catalogues" / "spring")
    other = foreign(first, run / "catalogues" / "foreign")
    return ProcessorContext(run, first.hash, second.hash, other.hash)


@pytest.fixture(scope="session")
def address(served, tmp_path_factory) -> str:
    """A server of that run on transformers, in a process of its own."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(served.run, log, "--engine", "transformers") as address:
        yield address
