"""`chat`: who finds the words of `llmrec chat`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from llmrec.recipe.part import Part


class Chat(Part):
    """Words around recommended items; the items themselves always come from constrained decoding."""

    by: Literal["template", "server", "model"] = Field(
        "template",
        description="template: sentences of prompts/replies.yaml; server: any OpenAI-compatible model; "
        "model: the served model in its chat mode (trained with tasks.chat, served by vLLM)",
    )
    url: str | None = Field(None, description="server: such as http://localhost:8000/v1; its key is OPENAI_API_KEY")
    model: str | None = Field(None, description="server: its name for the model")

    @model_validator(mode="after")
    def _is_reachable(self) -> Chat:
        if self.by == "server" and not (self.url and self.model):
            raise ValueError("by: server needs `url` and `model`")
        return self
