"""Alignment: answers behind one shared prompt beside rows of their own, and roll-outs beside TRL's way to draw them.

python scripts/speed/align.py                   → results/bench-align.json
python scripts/speed/align.py --dtype bfloat16
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from torch import Tensor

from decode_engines import open_model
from decode_peers import following
from decode_subject import catalogue_of, prepare
from llmrec.align.shared_prefix import answer_logprobs, build_shared_prefix_batch
from llmrec.decode.sample import sample
from llmrec.decode.scorer import Scorer
from llmrec.indexing.catalogue import Catalogue
from llmrec.results.record import write_result
from llmrec.train.loss import target_logprobs
from shared import RESULTS, command_line, ratio, take_turns


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        base: the model.
        prompt: tokens of a prompt.
        prompts: in a pass of training.
        negatives: answers beside the chosen one.
        groups: prompts of a batch of roll-outs.
        drawn: items drawn after each.
        items: of the catalogue.
        rounds: of taking turns.
    """

    base: str = "embedded:smollm2-135m-instruct"
    prompt: int = 128
    prompts: int = 2
    negatives: int = 15
    groups: int = 4
    drawn: int = 16
    items: int = 12_000
    rounds: int = 3


VOCABULARY = 40_000  # words of random prompts are below


def main(
    dtype: str = typer.Option("float32", help="of the weights: bfloat16 or float32"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
) -> None:
    """Alignment: answers behind one shared prompt, roll-outs beside TRL's way to draw them."""
    print(measure(Size(), dtype, out))


def measure(size: Size, dtype: str, out: Path) -> Path:
    """Measure both, and write a result; returns its path."""
    catalogue = catalogue_of(size.items)
    with tempfile.TemporaryDirectory() as folder:
        model, tokens = open_model(*prepare(Path(folder), catalogue, size.base, getattr(torch, dtype)), dtype)
    figures = {
        "prompt": shared_prompt(model, catalogue, tokens, size),
        "rollouts": roll_outs(model, catalogue, tokens, size),
    }
    path = out / "bench-align.json"
    about = {"dtype": dtype, "threads": torch.get_num_threads(), "base": size.base}
    write_result(path, f"python scripts/speed/align.py --dtype {dtype}", figures, **about)
    return path


def shared_prompt(model: Any, catalogue: Catalogue, tokens: np.ndarray, size: Size) -> dict[str, Any]:
    """Forward and backward pass over a prompt and its answers: in one row, in rows of their own, with one negative."""
    random = np.random.default_rng(0)
    prompts = [random.integers(100, VOCABULARY, size.prompt) for _ in range(size.prompts)]
    codes = tokens[catalogue.codes]
    answers = [codes[random.choice(len(codes), 1 + size.negatives, replace=False)] for _ in prompts]
    model.train()
    contenders: dict[str, Callable[[], Any]] = {
        "one row": lambda: _learn(model, _in_one_row(model, prompts, answers)),
        "separate rows": lambda: _learn(model, _in_rows(model, prompts, answers)),
        "one row, one negative": lambda: _learn(model, _in_one_row(model, prompts, [some[:2] for some in answers])),
    }
    with torch.no_grad():
        apart = (_in_one_row(model, prompts, answers) - _in_rows(model, prompts, answers)).abs().max()
    seconds = take_turns(contenders, size.rounds)
    model.eval()
    return {
        "prompt tokens": size.prompt,
        "prompts": size.prompts,
        "code tokens": codes.shape[1],
        "negatives": size.negatives,
        "seconds": seconds,
        "separate rows over one row": ratio(seconds["separate rows"], seconds["one row"]),
        "all negatives over one": ratio(seconds["one row"], seconds["one row, one negative"]),
        "largest difference in nats": round(float(apart), 6),
    }


def _learn(model: Any, scores: Tensor) -> None:
    model.zero_grad()
    (-scores.mean()).backward()


def _in_one_row(model: Any, prompts: list[np.ndarray], answers: list[np.ndarray]) -> Tensor:
    """(prompts, answers) log-probabilities."""
    batch = {name: value.to(model.device) for name, value in build_shared_prefix_batch(prompts, answers).items()}
    return answer_logprobs(model, batch).sum(2)


def _in_rows(model: Any, prompts: list[np.ndarray], answers: list[np.ndarray]) -> Tensor:
    """The same from a row for each answer, with the same loss, and no logits at unsupervised positions either."""
    lines = np.stack([np.append(p, answer) for p, some in zip(prompts, answers, strict=True) for answer in some])
    ids, start = torch.from_numpy(lines).to(model.device), len(prompts[0])
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    states, targets = hidden[:, start - 1 : -1].flatten(0, 1), ids[:, start:].flatten()
    scores = target_logprobs(states, targets, model.get_output_embeddings())
    return scores.view(len(prompts), len(answers[0]), -1).sum(2)


def roll_outs(model: Any, catalogue: Catalogue, tokens: np.ndarray, size: Size) -> dict[str, Any]:
    """Items drawn after a batch of prompts: by our engine, and as TRL draws them: `generate` on repeated prompts."""
    random, trie, allowed = np.random.default_rng(0), catalogue.trie, following(catalogue, tokens)
    scorer = Scorer(model)

    def prompts() -> list[list[int]]:
        return [random.integers(100, VOCABULARY, size.prompt).tolist() for _ in range(size.groups)]

    def by_generate() -> Any:
        ids = torch.tensor(prompts(), device=model.device).repeat_interleave(size.drawn, 0)
        with torch.inference_mode():
            return model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                max_new_tokens=trie.depth,
                eos_token_id=None,
                prefix_allowed_tokens_fn=lambda _, row: allowed[tuple(row[size.prompt :].tolist())],
            )

    seconds = take_turns(
        {
            "with replacement": lambda: sample(scorer, trie, tokens, prompts(), size.drawn),
            "without replacement": lambda: sample(scorer, trie, tokens, prompts(), size.drawn, replacement=False),
            "TRL's generate": by_generate,
        },
        size.rounds,
    )
    count = size.groups * size.drawn
    return {
        "items": size.items,
        "prompt tokens": size.prompt,
        "prompts": size.groups,
        "draws": size.drawn,
        "seconds": seconds,
        "roll-outs a second": {name: round(count / float(np.median(each)), 2) for name, each in seconds.items()},
        "times TRL's": {
            name: ratio(seconds["TRL's generate"], seconds[name])
            for name in ("with replacement", "without replacement")
        },
    }


if __name__ == "__main__":
    command_line(main)
