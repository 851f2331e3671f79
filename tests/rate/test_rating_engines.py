"""Language models asked for ratings: held against their own plain forward pass, and against `generate`."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rate_world import world

from llmrec.errors import ModelError, TextError
from llmrec.model.base import tiny_base
from llmrec.model.prompting import format_prompt
from llmrec.rate import systems
from llmrec.rate.answers import LABEL, RatingAnswer, RatingTokens, answer_all
from llmrec.rate.cases import render_prompts, sample_cases
from llmrec.rate.engines import EndpointRatingEngine, TransformersRatingEngine
from llmrec.rate.experiment import Experiment
from llmrec.rate.ratings import TEST, RatingScale
from llmrec.text.client import OpenAIClient

STARS, HALVES = RatingScale(1, 5, 1), RatingScale(0.5, 5, 0.5)


def base(folder: Path, chat: bool = True) -> tuple[Any, Any]:
    torch.manual_seed(0)
    words = ["One person's ratings, oldest first: Film ab 1 2 3 4 5 6 7 8 9 0 0.5 drama comedy"] * 3
    model, tokenizer = tiny_base("llama", words, folder)
    for parameter in model.parameters():
        parameter.data *= 6  # so that probabilities differ
    tokenizer.chat_template = tokenizer.chat_template if chat else None
    return model.eval(), tokenizer


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("scale", [STARS, HALVES])
@pytest.mark.parametrize("shots", [0, 2])
@torch.inference_mode()
def test_probabilities_and_words_are_those_of_plain_passes(
    tmp_path: Path, chat: bool, scale: RatingScale, shots: int
) -> None:
    """Batches, padding, the shared beginning and the tree of half stars change nothing."""
    log = world(tmp_path, low=scale.low, step=scale.step)
    prompts = render_prompts(log, sample_cases(log, TEST, 7, 4, 0), shots=shots)
    model, tokenizer = base(tmp_path / "base", chat)
    engine = TransformersRatingEngine("tiny", model, tokenizer, scale, max_tokens=5)
    found = dict(engine.answer(prompts))
    assert sorted(found) == list(range(len(prompts)))
    for number, prompt in enumerate(prompts):
        text, _ = format_prompt(tokenizer, prompt, LABEL)
        ids = tokenizer(text, add_special_tokens=not chat, return_tensors="pt")["input_ids"]
        words = RatingTokens.after(tokenizer, prompt, scale)
        plain = [float(torch.exp(_path(model, ids, path))) for path in words.paths]
        for one, path in enumerate(words.paths):  # a rating that another goes on from: what no longer one takes
            longer = [other for other in words.paths if other[: len(path)] == path and len(other) > len(path)]
            heads = {other[: len(path) + 1] for other in longer}
            plain[one] -= sum(float(torch.exp(_path(model, ids, head))) for head in heads)
        assert found[number].mass == pytest.approx(sum(plain), rel=1e-3)
        np.testing.assert_allclose(found[number].shares, np.array(plain) / sum(plain), rtol=2e-3, atol=1e-5)
        said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
        assert found[number].text == tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)
        assert found[number].prompt_tokens == ids.shape[1]


def _path(model: Any, ids: torch.Tensor, path: tuple[int, ...]) -> torch.Tensor:
    logits = model(torch.cat([ids, torch.tensor([path])], dim=1)).logits[0].log_softmax(-1)
    return sum((logits[ids.shape[1] - 1 + place, token] for place, token in enumerate(path)), torch.zeros(()))


def test_shares_of_any_trie_are_a_distribution() -> None:
    words = RatingTokens.build([(1,), (1, 2), (1, 2, 3), (4,), (5, 6)])
    draw = np.random.default_rng(0)
    at = []
    for path in words.prefixes:
        children = words.next_tokens(path)
        likely = draw.dirichlet(np.ones(len(children) + 1))[:-1]
        at.append(dict(zip(children, np.log(likely), strict=True)) | {99: -0.5})  # a token that begins no rating
    found, mass = words.probabilities_of_steps(at)
    assert sum(found) == pytest.approx(1)
    first, ends = np.exp(at[0][1]) + np.exp(at[0][4]) + np.exp(at[0][5]), 1 - np.exp(at[words.prefixes.index((5,))][6])
    assert mass == pytest.approx(first - np.exp(at[0][5]) * ends)  # 5 alone is no rating, 1 and 1 2 are


def test_nothing_likely_is_the_middle_and_words_alike_are_refused() -> None:
    words = RatingTokens.build([(1,), (2,), (3,)])
    assert words.probabilities_of_steps([{}]) == ([1 / 3] * 3, 0.0)
    with pytest.raises(ModelError, match="same tokens"):
        RatingTokens.build([(1,), (1,)])


def test_a_prompt_longer_than_the_window_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    model, tokenizer = base(tmp_path / "base")
    engine = TransformersRatingEngine("tiny", model, tokenizer, STARS)
    with pytest.raises(ModelError, match=r"the model reads 1024. Lower --history or --shots"):
        next(engine.answer(["film " * 2000]))


class Dying:
    """An engine that stops after a few answers, as one that is killed."""

    name = "dying"

    def __init__(self, after: int) -> None:
        self.after = after
        self.asked: Counter[str] = Counter()

    def answer(self, prompts: Any) -> Iterator[tuple[int, RatingAnswer]]:
        for number, prompt in enumerate(prompts):
            if sum(self.asked.values()) == self.after:
                raise KeyboardInterrupt
            self.asked[prompt] += 1
            yield number, RatingAnswer(prompt[-1], None, None, 1, 1, 0.0)


def test_a_killed_run_asks_again_for_nothing_that_was_answered(tmp_path: Path) -> None:
    prompts = [f"prompt {number}" for number in range(9)]
    engine = Dying(4)
    with pytest.raises(KeyboardInterrupt):
        answer_all(engine, prompts, tmp_path / "kept.jsonl")
    engine.after = 100
    found = answer_all(engine, prompts, tmp_path / "kept.jsonl")
    assert [answer.text for answer in found] == [prompt[-1] for prompt in prompts]
    assert engine.asked == dict.fromkeys(prompts, 1)
    (tmp_path / "kept.jsonl").write_bytes((tmp_path / "kept.jsonl").read_bytes()[:-20])  # killed while writing
    answer_all(engine, prompts, tmp_path / "kept.jsonl")
    assert sorted(engine.asked.values()) == [1] * 8 + [2]


class Rater(ThreadingHTTPServer):
    """Answers 4 with probabilities 1:1 for some words, 3 and 4, or what `script` says first."""

    words: tuple[str, ...] = ("3", " 4")

    def __init__(self, logprobs: str = "given") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.logprobs, self.asked = logprobs, 0
        self.script: list[tuple[int, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Rater

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        status, data = self.server.script.pop(0) if self.server.script else self.reply(body)
        if data == b"sleep":
            time.sleep(1.5)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def reply(self, body: dict) -> tuple[int, bytes]:
        choice: dict[str, Any] = {"message": {"content": "I say 4 stars"}}
        if body.get("logprobs") and self.server.logprobs == "refused":
            return 400, b'{"error": {"message": "logprobs are not supported by this model"}}'
        if body.get("logprobs") and self.server.logprobs == "given":
            top = [{"token": token, "logprob": float(np.log(0.4))} for token in self.server.words]
            choice["logprobs"] = {"content": [{"top_logprobs": [*top, {"token": "I", "logprob": -2.0}]}]}
        usage = {"prompt_tokens": 50, "completion_tokens": 4}
        return 200, json.dumps({"choices": [choice], "usage": usage}).encode()

    def log_message(self, *args: object) -> None:
        """Keep the terminal quiet."""


@pytest.fixture
def rater() -> Iterator[Rater]:
    with Rater() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def endpoint(rater: Rater, **more: Any) -> EndpointRatingEngine:
    given = {"backoff": 0.01, "timeout": 1.0, "tries": 6, **more}
    return EndpointRatingEngine(OpenAIClient(rater.url, "m", **given), STARS, workers=1)


def test_an_endpoint_is_read_and_its_bad_days_are_counted(rater: Rater, tmp_path: Path) -> None:
    half = b'{"choices": [{"message": {"content": "4"}, "logprobs": {"content": [{"top_logprobs": [{}]}]}}]}'
    rater.script = [(503, b"busy"), (200, b"not json"), (200, b"sleep"), (200, b'{"choices": []}'), (200, half)]
    log = world(tmp_path)
    experiment = Experiment.open(log, 6, 5, 0, tmp_path / "out")
    names = systems.run_prompted(experiment, "m", endpoint(rater), 0, 1, 0, lambda name, done: None)
    assert names == ["m zero-shot, parsed", "m zero-shot, expected"]
    kept = experiment.systems()
    assert kept[names[0]]["predicted"] == [4.0] * 6
    assert kept[names[1]]["predicted"] == [3.5] * 6
    facts = kept[names[0]]["facts"]
    assert (facts["asked again"], facts["parse rate"], facts["prompt tokens each"]) == (5, 1.0, 50)
    assert facts["probability of ratings"] == pytest.approx(0.8)
    assert rater.asked == 6 + 5


@pytest.mark.parametrize("logprobs", ["refused", "left out"])
def test_a_model_without_probabilities_is_still_read(rater: Rater, tmp_path: Path, logprobs: str) -> None:
    rater.logprobs = logprobs
    experiment = Experiment.open(world(tmp_path), 5, 5, 0, tmp_path / "out")
    names = systems.run_prompted(experiment, "m", endpoint(rater), 0, 1, 0, lambda name, done: None)
    assert names == ["m zero-shot, parsed"]
    assert experiment.systems()[names[0]]["facts"]["probability of ratings"] == "the model gives no log-probabilities"
    assert rater.asked == 5 + (logprobs == "refused")


def test_where_no_rating_is_likely_none_is_likelier_and_others_are_kept(rater: Rater, tmp_path: Path) -> None:
    rater.words = ("perhaps", "well")
    experiment = Experiment.open(world(tmp_path), 3, 5, 0, tmp_path / "out")
    names = systems.run_prompted(experiment, "m", endpoint(rater), 0, 1, 0, lambda name, done: None)
    kept = experiment.systems()[names[1]]
    assert kept["predicted"] == [3.0] * 3
    assert kept["facts"]["probability of ratings"] == 0


def test_nonsense_counts_against_the_parse_rate_and_is_the_mean(rater: Rater, tmp_path: Path) -> None:
    log = world(tmp_path)
    words = itertools.cycle(["I refuse", "between 1 and 5", "4", "2/5"])
    rater.script = [(200, json.dumps({"choices": [{"message": {"content": next(words)}}]}).encode()) for _ in range(8)]
    experiment = Experiment.open(log, 8, 5, 0, tmp_path / "out")
    systems.run_prompted(experiment, "m", endpoint(rater), 0, 1, 0, lambda name, done: None)
    kept = experiment.systems()["m zero-shot, parsed"]
    assert kept["facts"]["parse rate"] == 0.5
    assert sorted(kept["predicted"]) == pytest.approx(sorted([log.mean] * 4 + [4.0] * 2 + [2.0] * 2), abs=1e-4)
    assert "I refuse" in kept["facts"]["not read, such as"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([(401, b"no key")], r"HTTP 401: no key\). Check --url and --model"),
        ([(500, b"oops")] * 2, "HTTP 500: oops"),
        ([(200, b"sleep")] * 2, "TimeoutError|timed out"),
        ([(200, b"[]")] * 2, "TypeError"),
    ],
)
def test_an_endpoint_that_stays_silent_is_told_and_the_run_goes_on_later(
    rater: Rater, tmp_path: Path, script: list, words: str
) -> None:
    experiment = Experiment.open(world(tmp_path), 6, 5, 0, tmp_path / "out")
    good = [Handler.reply(type("H", (), {"server": rater})(), {}) for _ in range(2)]
    rater.script = good + script
    with pytest.raises(TextError, match=words):
        systems.run_prompted(experiment, "m", endpoint(rater, tries=2, timeout=0.5), 0, 1, 0, lambda name, done: None)
    before = rater.asked
    rater.script = []
    systems.run_prompted(experiment, "m", endpoint(rater, tries=2), 0, 1, 0, lambda name, done: None)
    assert rater.asked - before == 4  # two were answered before


def test_wordings_and_orders_are_compared_with_the_first(tmp_path: Path) -> None:
    log = world(tmp_path)
    model, tokenizer = base(tmp_path / "base")
    experiment = Experiment.open(log, 12, 4, 0, tmp_path / "out")
    engine = TransformersRatingEngine("tiny", model, tokenizer, STARS, max_tokens=3)
    names = systems.run_prompted(experiment, "tiny", engine, 0, 1, 8, lambda name, done: None)
    told = experiment.systems()[names[1]]["facts"]["sensitivity"]
    assert list(told) == [*(f"template {number}" for number in range(1, 6)), "newest first", "shuffled"]
    assert told["template 1"]["moved by"] == pytest.approx(0, abs=1e-4)
    assert told["template 3"]["moved by"] > 0
