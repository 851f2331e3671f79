"""Entries of a recipe that name collaborative models: their parameters, names, folders, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.errors import RecipeError
from llmrec.recipe import Evaluate, Recipe, Sft
from llmrec.recipe.collaborative import SPECS, BprSpec, EaseRecentSpec, EaseSpec, MarkovEaseSpec, SasRecSpec
from llmrec.recipe_file import dump, read


def baselines(entry: str) -> list:
    return read(f"evaluate:\n  baselines:\n  - {entry}\n", Path("mine.yaml")).evaluate.baselines


@pytest.mark.parametrize("kind", SPECS)
def test_a_name_alone_is_the_model_at_its_defaults_and_is_written_as_a_name(kind: str) -> None:
    spec = SPECS[kind]()
    assert baselines(kind) == baselines(f"{{{kind}: {{}}}}") == baselines(f"{kind}:") == [spec]
    assert (spec.name, spec.slug) == (kind, kind)
    assert Evaluate(baselines=[spec]).model_dump(mode="json")["baselines"] == [kind]


def test_parameters_are_part_of_names_and_folders_where_they_differ_from_the_defaults() -> None:
    (spec,) = baselines("{sasrec: {layers: 3, dropout: 0.3, heads: 2, learning_rate: 1.0e-5}}")
    assert spec == SasRecSpec(layers=3, dropout=0.3, learning_rate=1e-5)
    assert spec.name == "sasrec (learning rate 1e-05, layers 3, dropout 0.3)"
    assert spec.slug == "sasrec-learning_rate-1e-05-layers-3-dropout-0.3"
    assert EaseSpec(l2=300).slug == EaseSpec(l2=300.0).slug == "ease-l2-300"


def test_where_a_model_computes_is_no_part_of_what_it_is() -> None:
    (spec,) = baselines("{bpr: {device: cpu, seed: 5}}")
    assert spec.device == "cpu" and "device" not in spec.parameters
    assert (spec.name, spec.slug) == ("bpr (seed 5)", "bpr-seed-5") == (BprSpec(seed=5).name, BprSpec(seed=5).slug)


def test_a_recipe_with_parameters_is_read_back_as_it_was_written() -> None:
    text = "train: [{teacher_replace_prob: 0.2, teacher: {markov-ease: {l2: 50}}}]\n"
    text += "evaluate: {baselines: [ease, {bpr: {width: 8}}]}"
    recipe = read(text, Path("mine.yaml"))
    assert isinstance(recipe.train[0], Sft) and recipe.train[0].teacher == MarkovEaseSpec(l2=50)
    assert recipe.evaluate.baselines == [EaseSpec(), BprSpec(width=8)]
    assert read(dump(recipe), Path("mine.yaml")) == recipe
    assert "- bpr:\n      width: 8\n" in dump(recipe)


def test_what_a_model_is_composed_of_has_its_parameters() -> None:
    spec = MarkovEaseSpec(l2=50, decay=0.7, max_gap=2)
    assert spec.parts["recent"] == EaseRecentSpec(l2=50, decay=0.7)
    assert {role: part.slug for role, part in spec.parts.items()} == {
        "markov": "markov-max_gap-2",
        "recent": "ease-recent-l2-50-decay-0.7",
    }
    assert spec.parts["recent"].parts == {"ease": EaseSpec(l2=50)}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("eaze", "line 3: evaluate.baselines.0: there is no 'eaze'; there are: popularity, .* Did you mean 'ease'?"),
        ("{sasrek: {layers: 2}}", "there is no 'sasrek'.*Did you mean 'sasrec'?"),
        ("{sasrec: {layer: 2}}", r"unknown key 'evaluate.baselines.0.sasrec.layer'. Did you mean '.*sasrec.layers'?"),
        ("{ease: {zzz: 2}}", "unknown key 'evaluate.baselines.0.ease.zzz'. Known there: l2."),
        ("{sasrec: {layers: 0}}", r"sasrec.layers: .*greater than or equal to 1 \(given: 0\)"),
        ("{sasrec: {layers: two}}", r"sasrec.layers: .*\(given: 'two'\)"),
        ("{sasrec: {layers: true}}", "sasrec.layers: should be a number, not true"),
        ("{sasrec: {heads: 3}}", "width: 128 does not divide by heads: 3"),
        ("{ease: {l2: 0}}", r"ease.l2: .*greater than 0"),
        ("{ease: {l2: .nan}}", r"ease.l2: .*finite"),
        ("{bpr: {device: gpu}}", "bpr.device: .*'auto', 'cpu' or 'cuda'"),
        ("{ease: 3}", "write its parameters as a mapping"),
        ("{ease: {}, markov: {}}", "write the name of a collaborative model, or one name with its parameters"),
        ("3", "write the name of a collaborative model"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_with_line_and_nearest_name(entry: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        baselines(entry)
    assert str(caught.value).startswith("mine.yaml, line 3: ")


def test_the_schema_of_recipes_takes_the_entries_that_recipes_take() -> None:
    schema = Recipe.model_json_schema()
    names, parameters = {}, {}
    for reference in schema["$defs"]["Evaluate"]["properties"]["baselines"]["items"]["oneOf"]:
        name, entry = schema["$defs"][reference["$ref"].removeprefix("#/$defs/")]["anyOf"]
        (kind,) = entry["required"]
        names[kind], parameters[kind] = name["const"], set(entry["properties"][kind]["properties"])
        assert entry["additionalProperties"] is entry["properties"][kind]["additionalProperties"] is False
    assert names == {kind: kind for kind in SPECS}
    assert parameters == {kind: set(spec.model_fields) for kind, spec in SPECS.items()}
