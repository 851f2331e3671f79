"""Print the JSON schema of recipes, for completion and checks in an editor."""

from __future__ import annotations

from llmrec.cli.screen import say


def command() -> None:
    from llmrec.recipe import Recipe

    say(Recipe.model_json_schema())
