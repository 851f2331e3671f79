"""A base carried as a GGUF file: taken apart once, and loaded from the plain copy of it from then on."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from llmrec.checked import read_checked
from llmrec.errors import RunError
from llmrec.files import hash_file, hash_folder, write_json
from llmrec.model.loading import tokenizer_from

NOTE = "copy.json"  # in the copy: what it was made of, and its own hash


def plain_copy(file: Path, into: Path) -> Path | None:
    """A model folder with what a GGUF file holds, made where it is not there yet, intact.

    Args:
        file: the GGUF file.
        into: where the copy is, or shall be.

    Returns:
        `into`; None where it cannot be written, or something else is there.
    """
    source = hash_file(file)
    if _is_copy(into, source):
        return into
    if os.path.lexists(into) and (into.is_symlink() or not (into / NOTE).is_file()):
        return None  # no copy of ours, so it is not replaced
    try:
        shutil.rmtree(into, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{into.name}.", dir=into.parent) as work:
            made = Path(work) / "model"
            for part in load(file, torch.float32):
                part.save_pretrained(made)
            write_json(made / NOTE, {"of": source, "is": hash_folder(made)})
            made.replace(into)
    except OSError:  # a cache that is full or read-only, or another process was first
        return into if _is_copy(into, source) else None
    return into


def load(file: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a GGUF file, its weights plain, and its tokenizer.

    Args:
        dtype: of the weights; float32 holds them exactly.
    """
    from transformers import GgufConfig

    folder, options = file.parent, {"gguf_file": file.name}
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=GgufConfig(dequantize=True), dtype=dtype, trust_remote_code=False, **options
    )
    for place, leftover in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(place, leftover):  # the weights are plain now; saying otherwise would break the saved folder
            delattr(place, leftover)
    model.is_quantized = False
    return model, tokenizer_from(folder, **options)


def _is_copy(folder: Path, source: str) -> bool:
    """Whether a folder holds, intact, what was made of a file of this hash."""
    try:
        made = read_checked(folder / NOTE, dict[str, str])
    except RunError:  # none, or damaged: then it is made again
        return False
    return made.get("of") == source and made.get("is") == hash_folder(folder, (NOTE,))
