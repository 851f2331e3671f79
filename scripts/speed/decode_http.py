"""k-best over HTTP: eight users at once ask `llmrec serve` on vLLM, beside `generate` with a dictionary."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from decode_engines import BATCH, VLLM, open_model
from decode_peers import dictionary_generate
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.prompting import encode_prompt
from serve_load import Client
from serve_server import serving
from shared import ratio, take_turns

ITEMS = (12, 48)  # of a history: with five tokens an item, prompts of 60 to 240 tokens


def measure_http(folder: Path, catalogue_folder: Path, dtype: str, beams: int, rounds: int) -> dict[str, Any]:
    """Every batch of new histories through the server and the peer in turn.

    Args:
        beams: of both; as many items are asked for.
        rounds: timed batches of each.
    """
    shutil.copytree(catalogue_folder, folder / "catalogue", dirs_exist_ok=True)  # the layout of an export
    model, tokens = open_model(folder, catalogue_folder, dtype)
    catalogue = Catalogue.load(catalogue_folder)
    generate = dictionary_generate(model, catalogue, tokens)
    tokenizer, _ = model_folder.load_tokenizer(folder)
    random = np.random.default_rng(beams)
    users: list[list[int]] = []

    def drawn() -> None:
        lengths = random.integers(ITEMS[0], ITEMS[1] + 1, BATCH)
        users[:] = [random.integers(0, len(catalogue.item_ids), length).tolist() for length in lengths]

    def peer() -> None:
        texts = [", ".join(catalogue.code_texts[item] for item in user) for user in users]
        generate([encode_prompt(tokenizer, text) for text in texts], beams)

    options = ["--", "--dtype", dtype, "--max-model-len", str(VLLM["max_model_len"]), "--enforce-eager"]
    with serving(folder, folder / "server.log", "vllm", "--beams", str(beams), *options) as server:
        clients = server.clients(BATCH)
        contenders: dict[str, Callable[[], Any]] = {
            "new histories": drawn,
            "http": lambda: asyncio.run(
                _asked(clients, [[catalogue.item_ids[i] for i in user] for user in users], beams)
            ),
            "generate": peer,
        }
        seconds = take_turns(contenders, rounds)
    return {
        "beams": beams,
        "batch": BATCH,
        "items_of_a_history": ITEMS,
        "seconds_a_batch": {name: [round(one, 4) for one in seconds[name]] for name in ("http", "generate")},
        "users_a_second": {name: round(BATCH / float(np.median(seconds[name])), 2) for name in ("http", "generate")},
        "times_faster_than_generate": ratio(seconds["generate"], seconds["http"]),
    }


async def _asked(clients: list[Client], histories: list[list[str]], k: int) -> None:
    """All users at once, each over a connection of its own; every one must be answered with k items."""
    bodies = [{"history": history, "k": k, "exclude_seen": False} for history in histories]
    calls = (client.post("/v1/recommendations", body) for client, body in zip(clients, bodies, strict=True))
    for status, answer in await asyncio.gather(*calls):
        assert status == 200 and answer.count(b'"item_id"') == k, answer[:500]
    for client in clients:
        client.close()  # its loop ends here
