"""Which modules an extra brings, and what to type where they are missing."""

from __future__ import annotations

import importlib.util

from llmrec.errors import LlmrecError

EXTRAS = {
    "train": ["accelerate", "peft", "trl", "datasets", "gguf"],
    "report": ["matplotlib"],
    "indexing": ["sklearn"],
    "serve": ["vllm"],
    "http": ["fastapi", "uvicorn", "prometheus_client"],
    "chat": ["gradio", "rapidfuzz"],
    "text": ["sacrebleu", "rouge_score"],
    "rate": ["lenskit"],
}


def is_there(name: str) -> bool:
    """Whether a module, such as `google.protobuf`, can be imported; it is not imported for that."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def missing(extra: str) -> list[str]:
    """Modules of an extra that this environment lacks."""
    return [name for name in EXTRAS[extra] if not is_there(name)]


def need(*extras: str) -> None:
    """Raise LlmrecError where a package of an extra is missing, with the command that installs it."""
    lacking = {extra: missing(extra) for extra in extras}
    absent = [name for names in lacking.values() for name in names]
    if absent:
        wanted = ",".join(extra for extra, names in lacking.items() if names)
        raise LlmrecError(
            f"this needs {', '.join(absent)}, which are not installed. Type: pip install 'llmrec[{wanted}]'"
        )
