"""Ratings from any server that speaks OpenAI's chat completions, with probabilities where it gives them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from llmrec.addresses import KEY
from llmrec.errors import TextError
from llmrec.model.prompting import turns
from llmrec.rate.answers import LONGEST, Answer
from llmrec.rate.scale import Scale
from llmrec.text.client import NoAnswer, OpenAIClient

_TOP = 20  # what OpenAI's API gives at most


class OnEndpoint:
    """Asks several questions at a time; the rest between tries doubles (see `text.client`).

    Probabilities are read off the first token, so they need a scale whose ratings are one digit each. A server that
    refuses to give any is asked without.
    """

    def __init__(self, client: OpenAIClient, scale: Scale, workers: int = 8, longest: int = LONGEST) -> None:
        self.client, self.scale, self.workers, self.longest = client, scale, workers, longest
        self.logprobs = all(len(word) == 1 for word in scale.words)
        self.name = f"{client.model} | {client.url}/chat/completions | {scale.said} | {longest}"

    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Answers as they come.

        Raises:
            TextError: the server gives no answer after several tries.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = {pool.submit(self._one, prompt): number for number, prompt in enumerate(prompts)}
            try:
                for job in as_completed(jobs):
                    yield jobs[job], job.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, prompt: str) -> Answer:
        body: dict[str, Any] = {"messages": turns(prompt), "temperature": 0.0, "seed": 0, "max_tokens": self.longest}
        begin = time.perf_counter()
        wanted = self.logprobs
        try:
            read, tries = self.client.complete(
                body | ({"logprobs": True, "top_logprobs": _TOP} if wanted else {}), _read
            )
        except NoAnswer as error:
            if not (wanted and (error.status or 0) // 100 == 4 and b"logprob" in error.reply.lower()):
                raise TextError(
                    f"{str(error).removesuffix('.')}. Check --url and --model, and {KEY} if it wants a key; "
                    "answers so far are kept, and the same command goes on."
                ) from None
            self.logprobs = False  # a model without them; what it says can still be read
            return self._one(prompt)
        text, top, used = read
        likely, mass = self._shares(top)
        seconds = time.perf_counter() - begin
        return Answer(text, likely, mass, *used, seconds, tries)

    def _shares(self, top: list[tuple[str, float]]) -> tuple[list[float] | None, float | None]:
        if not (self.logprobs and top):
            return None, None
        likely = dict.fromkeys(self.scale.words, 0.0)
        for token, logprob in top:
            if token.strip() in likely:
                likely[token.strip()] += math.exp(min(0.0, logprob))
        mass = sum(likely.values())
        if mass <= 0:  # no rating among the likeliest words: none is likelier than another
            return [1 / len(likely)] * len(likely), 0.0
        return [value / mass for value in likely.values()], min(mass, 1.0)


def _read(reply: Any) -> tuple[str, list[tuple[str, float]], tuple[int, int]]:
    """Words, the likeliest first tokens with their log-probabilities in nats, and tokens of question and answer.

    A server that does not count tokens has 0 of them.
    """
    choice = reply["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise ValueError("its answer is no text")
    places = (choice.get("logprobs") or {}).get("content") or []
    used = reply.get("usage") or {}
    counted = (int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0))
    likeliest = (places[0].get("top_logprobs") or []) if places else []
    return text, [(str(entry["token"]), float(entry["logprob"])) for entry in likeliest], counted
