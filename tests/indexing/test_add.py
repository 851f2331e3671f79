"""`llmrec index`: codes for new items that the trained model takes up, and figures of a run's codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import llmrec
from llmrec.decode.load import LoadedRecommender, RecommenderFolder
from llmrec.errors import CodeError, DataError, ModelError
from llmrec.files import hash_folder
from llmrec.indexing import new_items
from llmrec.indexing.catalogue import Catalogue, find_catalogue
from llmrec.recipe_file import load
from llmrec.run import execute
from llmrec.run.layout import recipe_of
from llmrec.run.recommender import describe


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small run that may be added to."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("added") / "run"))


def add(run: Path, file: Path, beginning: str | None = None) -> tuple[Path, dict]:
    """New items beside those of a run, as `llmrec index add` adds them."""
    recipe, old = recipe_of(run), find_catalogue(run / "catalogue", run / "catalogues", beginning)
    return new_items.add(file, old, recipe.items, recipe.seed, run / "catalogues")


def opened(run: Path, catalogue: Path) -> LoadedRecommender:
    return RecommenderFolder(run, describe(run)).for_catalogue(catalogue)


def wares(folder: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), folder / "new.parquet")
    return folder / "new.parquet"


def test_new_items_are_recommended_without_training_and_nothing_else_changes(run: Path, tmp_path: Path) -> None:
    before, old = hash_folder(run / "catalogue"), Catalogue.load(run / "catalogue")
    file = wares(tmp_path, item_id=["i3", "late", "later"], title=["", "Film number 3 ddd", "Film number 4 eee"])
    folder, facts = add(run, file)
    assert facts["new codes"] == 2 and facts["codes kept"] == 40
    assert hash_folder(run / "catalogue") == before
    new = Catalogue.load(folder)
    assert folder == run / "catalogues" / new.hash[:16]
    assert new.extends == (old.hash,) and new.code_texts[:40] == old.code_texts
    found = opened(run, folder).recommend(["i1", "i2"], 42, exclude_seen=False)
    assert {"late", "later"} < {item for item, _ in found} and len(found) == 42
    again, _ = add(run, wares(tmp_path, item_id=["last"], title=["Film number 5 fff"]))
    assert Catalogue.load(again).extends == (old.hash, new.hash)
    assert opened(run, again).recommend(["late"], 1)
    assert hash_folder(run / "catalogue") == before and llmrec.load(run).recommend(["i1"], 1)


def test_a_catalogue_of_another_line_is_refused(run: Path, tmp_path: Path) -> None:
    held = Catalogue.load(run / "catalogue")
    codes = held.codes.copy()
    codes[[0, 1]] = codes[[1, 0]]
    Catalogue.of_symbols(held.items, codes, held.widths).save(tmp_path, {})
    with pytest.raises(ModelError, match="was trained on the catalogue"):
        opened(run, tmp_path)


@pytest.mark.parametrize(
    ("columns", "error", "said"),
    [
        ({"title": ["x"]}, DataError, "has no column item_id, but: title"),
        ({"item_id": ["i1"], "title": ["x"]}, CodeError, "has a code already"),
        ({"item_id": ["n", "n"], "title": ["x", "y"]}, DataError, "'n' empty or twice"),
        ({"item_id": ["n"], "title": [""]}, DataError, "have no text in title, kind: n"),
        ({"item_id": [f"n{i}" for i in range(40)], "title": ["Film"] * 40}, CodeError, "no reserved token"),
    ],
)
def test_what_cannot_be_added_is_said(run: Path, tmp_path: Path, columns: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        add(run, wares(tmp_path, **columns), Catalogue.load(run / "catalogue").hash[:16])


def test_new_items_of_unknown_categories_are_named(world: Path, tmp_path: Path) -> None:
    recipe = load(world, ["indexing={method: category, category_column: kind, reserved_tokens: 20}"])
    made = execute.run(recipe, tmp_path / "run", until="catalogue")
    file = wares(tmp_path, item_id=["x", "y", "z"], title=["Film ccc", "Film ddd", "Film"], kind=["opera", "drama", ""])
    folder, facts = add(made, file)
    assert facts["placed by text"] == ["x", "z"]
    codes, items = Catalogue.load(folder).codes, Catalogue.load(folder).item_number
    assert codes[items["y"], 0] == codes[items["i0"], 0]  # another drama
    assert {codes[items["x"], 0], codes[items["z"], 0]} <= set(codes[:40, 0].tolist())


def test_the_command_shows_and_compares(run: Path) -> None:
    def llmrec(*words: str) -> str:
        command = [sys.executable, "-m", "llmrec.cli.main", "index", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    found = json.loads(llmrec("show", str(run), "--json"))
    assert found["method"] == "rq-kmeans" and found["items"] == 40 and found["collisions_after"] == 0
    assert len(found["category_nmi"]) == 2 and -1 <= found["dominance"] <= 1
    assert "NMI with co-occurrence" in llmrec("compare", str(run), str(run))


def test_the_command_adds_and_shows_what_was_added(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmrec.cli.main", "index"]
    file = wares(tmp_path, item_id=["by-command"], title=["Film number 6 ggg"])
    done = subprocess.run([*command, "add", run, file, "--json"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert Path(told["folder"]) == run / "catalogues" / told["hash"][:16] and told["new codes"] == 1
    shown = [*command, "show", run, "--catalogue", told["hash"][:9], "--json"]
    found = json.loads(subprocess.run(shown, capture_output=True, text=True, check=True).stdout)
    assert found["items"] == told["codes kept"] + 1 and "cooccurrence_nmi" not in found
    refused = subprocess.run([*command, "show", run, "--catalogue", "nothing"], capture_output=True, text=True)
    assert refused.returncode == 2 and "0 catalogues of" in refused.stderr
