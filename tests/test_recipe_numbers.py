"""Numbers of a recipe: none is true, infinite or larger than the machine's own numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from llmrec.errors import RecipeError
from llmrec.recipe import Recipe
from llmrec.recipe.stages import STAGES
from llmrec.recipe_file import read

PATH = Path("mine.yaml")


def numbers(part: type[BaseModel], above: str = "") -> dict[str, str]:
    """Every field of a recipe that is a number, as an override's key → its kind."""
    found: dict[str, str] = {}
    for name, field in part.model_fields.items():
        key, inner = f"{above}{name}", field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= numbers(inner, f"{key}.")
        for kind in ("int", "float"):
            if inner is {"int": int, "float": float}[kind] or str(inner) == f"{kind} | None":
                found[key] = kind
    return found


NUMBERS = numbers(Recipe) | {
    f"{key}:{method}": kind
    for method, stage in STAGES.items()
    for key, kind in numbers(stage, "train.1.").items()
}  # fmt: skip


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_takes_what_is_no_number_or_none_that_a_machine_holds(key: str) -> None:
    name, _, method = key.partition(":")
    text = f"train: [{{}}, {{method: {'dpo' if method == 'prefer' else method}}}]\n" if method else ""
    for bad in ("true", "false", ".nan", ".inf", "-.inf", str(10**30), "9" * 400, "1.0e300", "word", "[1]", "{}"):
        with pytest.raises(RecipeError) as caught:
            read(text, PATH, [f"{name}={bad}"])
        assert name in str(caught.value)


def test_there_are_as_many_number_fields_as_the_test_above_needs() -> None:
    assert {"seed", "tasks.rating", "train.1.epochs:sft", "train.1.kl:grpo", "data.synthetic.order"} <= NUMBERS.keys()


def test_a_seed_is_refused_with_its_range_and_the_largest_is_taken() -> None:
    assert read("", PATH, [f"seed={2**63 - 1}"]).seed == 2**63 - 1
    for seed in (2**63, -1):
        with pytest.raises(RecipeError, match=rf"seed: .*(9223372036854775807|0).*{seed}"):
            read("", PATH, [f"seed={seed}"])


def test_the_schema_knows_the_bounds() -> None:
    schema = Recipe.model_json_schema()
    assert schema["properties"]["seed"]["maximum"] == 2**63 - 1
    assert schema["$defs"]["Data"]["properties"]["max_users"]["anyOf"][0]["minimum"] == 1
    assert '"ge"' not in str(schema).replace("'", '"')
