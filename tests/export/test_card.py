"""The card: its figures are the run's, its licences the sources', and no word of somebody's files is markup."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from llmrec.card import UNKNOWN, Facts, base_licence, base_name, card
from llmrec.evaluate.files import read_metrics
from llmrec.export import export
from llmrec.recipe import Model
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.stage_record import read_record

HOSTILE = (
    "Evil\n---\nlicense: mit\n# Heading | cell | `code` <script>alert(1)</script> [link](https://evil.example) "
    "![image](x.png) **bold** {{ braces }} https://evil.example \x1b[31m\u2028 ``` ~~~ \\` end"
)


def header(text: str) -> dict[str, Any]:
    """What stands between the first two lines of dashes, as YAML."""
    return dict(yaml.safe_load(text.split("---\n")[1]))


def shape(text: str) -> list[str]:
    """Kinds of everything that a Markdown reader finds in the body, in order; links by themselves count as well."""
    body = text.split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    return [kind for token in tokens for kind in (token.type, *(child.type for child in token.children or []))]


def facts_of(made: Any, metrics: dict[str, Any] | None, name: str, base: str) -> Facts:
    """Facts in which every word that a file could bring in is `name`."""
    trained = made | {"device": name, "versions": {"torch": name}}
    data = {"users": 3, "source": name, "licence": name, "items": name}
    return Facts(
        name=name,
        source="files",
        data=data,
        model=Model().model_copy(update={"base": base}),
        trained=[(made["config"], trained)],
        metrics=metrics,
        members=[(0.5, name), (0.5, name)],
        example=(name, name, name),
        levels=3,
        chat=True,
        dtype="float32",
        rows=64,
        adapter=True,
    )


def test_no_word_of_somebody_s_files_is_read_as_markup(tiny_run: Path) -> None:
    made = read_record(RunFolder(tiny_run).last_trained)
    metrics = read_metrics(RunFolder(tiny_run).evaluation("test"))

    def named(name: str) -> str:
        told = json.loads(json.dumps(metrics).replace('"nano"', json.dumps(name)))
        return card(facts_of(made, told, name, name))

    assert shape(named(HOSTILE)) == shape(named("plain"))
    assert set(header(named(HOSTILE))) == set(header(named("plain")))
    assert header(named(HOSTILE))["model-index"][0]["name"] == HOSTILE.strip()
    assert header(named(HOSTILE))["license"] == "unknown"


def test_the_figures_are_those_of_the_evaluation(tiny_run: Path, scratch: Path) -> None:
    metrics = read_metrics(RunFolder(tiny_run).evaluation("test"))
    parsed = ModelCard.load(scratch / "README.md")
    found = {result.metric_type: result.metric_value for result in parsed.data.eval_results}
    assert found == {name: round(value["mean"], 5) for name, value in metrics["systems"]["nano"].items()}
    for system in ("EASE", "popularity", "Markov", "EASE on recent items"):
        assert f"| `{system}` |" in parsed.text
    ease = metrics["systems"]["ease"]["hr@5"]
    assert f"| `EASE` | {metrics['systems']['ease']['hr@1']['mean']:.3f} (" in parsed.text
    assert f"{ease['mean']:.3f} ({ease['low']:.3f} to {ease['high']:.3f})" in parsed.text
    assert f"users `{metrics['protocol']['users']}`" in parsed.text and "beams `10`" in parsed.text


@pytest.mark.parametrize("change", ["evaluate.exclude_seen=true", "evaluate.beams=7"])
def test_figures_of_another_recommender_are_not_claimed(change: str, tiny_run: Path, tmp_path: Path) -> None:
    """An evaluation that is older than the recipe, as a run stopped before its end leaves it."""
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    run(recipe_of(copy, [change]), copy, until="train")
    text = (export(copy, tmp_path / "new") / "README.md").read_text()
    assert "was not evaluated" in text and "EASE" not in text and "metrics" not in header(text)


def test_figures_of_an_ensemble_are_claimed_and_its_members_named(mixed_run: Path, mixed: Path) -> None:
    metrics, text = read_metrics(RunFolder(mixed_run).evaluation("test")), (mixed / "README.md").read_text()
    found = {one.metric_type: one.metric_value for one in ModelCard.load(mixed / "README.md").data.eval_results}
    assert metrics["model"] == "nano+markov-ease" and "| **`nano+markov-ease`** |" in text
    assert found == {name: round(value["mean"], 5) for name, value in metrics["systems"]["nano+markov-ease"].items()}
    assert "`nano` (weight `0.6`) and `markov-ease` (weight `0.4`)" in text


def test_figures_on_the_validation_part_are_claimed_where_there_are_no_others(tiny_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    shutil.rmtree(RunFolder(copy).evaluation("test"))
    run(recipe_of(copy, ["evaluate.split=valid"]), copy, until="evaluate")
    assert "held out `valid`" in (export(copy, tmp_path / "new") / "README.md").read_text()


def test_licences_are_told_where_they_are_known_and_doubted_where_not(
    adapted: Path, scratch: Path, tiny_run: Path, base: Path
) -> None:
    text = (adapted / "README.md").read_text()
    assert "- base `some-base`: `<img src=x> ¦ free ˋofˋ charge`" in text  # from the base's own card
    assert f"- data `files`: `{UNKNOWN}`" in text
    assert header(text)["license"] == "unknown" and "base_model" not in header(text)
    assert "- base `nano`: `none: trained from random weights`" in (scratch / "README.md").read_text()
    model = recipe_of(tiny_run).model
    for name, public, licence in [
        ("embedded:smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", UNKNOWN),
        (str(base), None, "<img src=x> | free `of` charge"),
    ]:
        named = model.model_copy(update={"base": name})
        assert (base_name(named), base_licence(named)) == (public, licence)


def test_data_that_know_their_licence_are_named_with_it(tiny_run: Path) -> None:
    made = read_record(RunFolder(tiny_run).last_trained)
    facts = facts_of(made, None, "plain", "embedded:smollm2-135m-instruct")
    data = {"source": "MovieLens 100K", "licence": "GroupLens: research"}
    text = card(dataclasses.replace(facts, source="ml-100k", data=data))
    assert header(text)["license"] == "other" and header(text)["datasets"] == ["ml-100k"]
    assert header(text)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "- data `MovieLens 100K`: `GroupLens: research`" in text


@pytest.mark.parametrize("broken", ["---\nlicense: [\n---\n", "no header at all", "\xff\xfe", ""])
def test_a_base_whose_card_is_broken_has_an_unknown_licence(broken: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(broken.encode("latin-1"))
    assert base_licence(Model(base=str(tmp_path))) == UNKNOWN


def test_facts_that_training_tells_are_in_the_card(tiny_run: Path) -> None:
    """Whatever a stage writes into made.json, such as what merging into a de-quantized base costs."""
    made = read_record(RunFolder(tiny_run).last_trained)
    merge = {"merge": {"largest weight error": 0.0125}}
    text = card(facts_of(made | {"facts": made["facts"] | merge}, None, "plain", "nano"))
    assert "- merge: `largest weight error 0.0125`" in text
