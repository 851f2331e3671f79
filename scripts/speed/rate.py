"""Rating prediction: vLLM beside batched `generate`, in predictions a second.

python scripts/speed/rate.py                → results/rate-speed.json
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from transformers import GenerationConfig

from llmrec import resources
from llmrec.errors import RunError
from llmrec.model.base import load_base
from llmrec.model.prompting import encode_prompt
from llmrec.rate.answers import LABEL, MAX_ANSWER_TOKENS, parse_rating
from llmrec.rate.cases import render_prompts, sample_cases
from llmrec.rate.engines import TransformersRatingEngine
from llmrec.rate.ratings import TEST, load_ratings
from llmrec.rate.vllm_ratings import VllmRatingEngine
from llmrec.recipe import Data
from llmrec.results.record import write_result
from shared import RESULTS, command_line, ratio, take_turns, tell

BATCH = 32
VLLM: dict[str, Any] = {"max_model_len": 1024, "max_num_seqs": 128}


def main(
    model: str = typer.Option("embedded:smollm2-135m-instruct", help="a base"),
    cases: int = typer.Option(128, min=1, help="prompts of a round"),
    rounds: int = typer.Option(3, min=1, help="of taking turns"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
) -> None:
    """Rating prediction: zero-shot answers to the same prompts by vLLM and by batched `generate`, in turn."""
    resources.require_extras("serve")
    command = f"python scripts/speed/rate.py --model {model} --cases {cases} --rounds {rounds}"
    figures, path = measure(model, cases, rounds), out / "rate-speed.json"
    write_result(path, command, figures, dtype="bfloat16", threads=torch.get_num_threads())
    print(path)


def measure(base: str, cases: int, rounds: int) -> dict[str, Any]:
    """Seconds of each engine, prompts new in every round, and how often engines give the same rating.

    `generate` gets batches of like length, padded on the left, in the same dtype; all answer greedily, with at most the
    same number of tokens.

    Args:
        base: as `load_base` takes it.
        cases: prompts of a round.
        rounds: timed ones, after one to warm up.

    Raises:
        RunError: the data hold fewer cases than that.
    """
    loaded = load_ratings(Data(source="ml-100k"), "random", 42)
    drawn = sample_cases(loaded, TEST, cases * (rounds + 1), 10, 42)
    if len(drawn) < cases * (rounds + 1):
        raise RunError(f"{rounds} rounds of {cases} cases need more than the {len(drawn)} there are. Lower --cases.")
    order = np.random.default_rng(0).permutation(len(drawn)).reshape(rounds + 1, cases)
    parts = [render_prompts(loaded, drawn.take(rows)) for rows in order]
    model, tokenizer = load_base(base, torch.bfloat16)
    ours = TransformersRatingEngine("bench", model, tokenizer, loaded.scale)
    said: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        fast = VllmRatingEngine.open("bench", folder, loaded.scale, dtype="bfloat16", **VLLM)
        contenders = {
            "generate": _each(parts, said, "generate", lambda prompts: _generate(model, tokenizer, prompts)),
            "transformers": _each(parts, said, "transformers", lambda prompts: _texts(ours.answer(prompts))),
            "vllm": _each(parts, said, "vllm", lambda prompts: _texts(fast.answer(prompts))),
        }
        seconds = take_turns(contenders, rounds)
    tell("  ".join(f"{name} {np.median(some):.1f} s" for name, some in seconds.items()))
    return {
        "prompts a round": cases,
        "prompt tokens each": round(float(np.mean([len(row) for row in _rows(tokenizer, parts[-1])])), 1),
        "answer tokens at most": MAX_ANSWER_TOKENS,
        "batch of generate": BATCH,
        "seconds": {name: [round(one, 3) for one in some] for name, some in seconds.items()},
        "predictions a second": {name: round(cases / float(np.median(some)), 2) for name, some in seconds.items()},
        "times faster than generate": {
            name: ratio(seconds["generate"], some) for name, some in seconds.items() if name != "generate"
        },
        "same rating as generate": {
            name: _same(said["generate"], some, loaded.scale) for name, some in said.items() if name != "generate"
        },
    }


def _each(
    parts: list[list[str]], said: dict[str, list[str]], name: str, answer: Callable[[Sequence[str]], list[str]]
) -> Callable[[], None]:
    """A call that takes the next part each time, and keeps the last answers."""
    rest = iter(parts)

    def call() -> None:
        said[name] = answer(next(rest))

    return call


def _texts(answers: Any) -> list[str]:
    return [answer.text for _, answer in sorted(answers, key=lambda pair: pair[0])]


@torch.inference_mode()
def _generate(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """What the field does: batches of padded prompts through `generate`."""
    rows = _rows(tokenizer, prompts)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    config = GenerationConfig(
        max_new_tokens=MAX_ANSWER_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    found = [""] * len(rows)
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        width = max(len(rows[row]) for row in part)
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(rows[row])) + rows[row] for row in part])
        mask = torch.tensor([[0] * (width - len(rows[row])) + [1] * len(rows[row]) for row in part])
        out = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
        for row, tokens in zip(part, out[:, width:], strict=True):
            found[row] = tokenizer.decode(tokens, skip_special_tokens=True)
    return found


def _rows(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Tokens of each prompt as the model reads it, in its chat template where it has one."""
    return [encode_prompt(tokenizer, prompt, LABEL) for prompt in prompts]


def _same(first: list[str], second: list[str], scale: Any) -> float:
    """Share of prompts to which both gave the same rating, or both none."""
    pairs = zip(first, second, strict=True)
    return round(float(np.mean([parse_rating(one, scale) == parse_rating(other, scale) for one, other in pairs])), 4)


if __name__ == "__main__":
    command_line(main)
