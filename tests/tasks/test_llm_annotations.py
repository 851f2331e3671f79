"""Words written by the oracle: from training parts and the catalogue alone, and by a real server where one is named."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from task_world import source

from llmrec import trusted_urls
from llmrec.errors import TextError
from llmrec.recipe import Oracle, Tasks
from llmrec.recipe_file import load as load_recipe
from llmrec.tasks.examples import load, make
from llmrec.tasks.llm_annotations import add_annotations, item_traits

TEXTS = ["Alien; genres: Horror", "Big; genres: Comedy", "<s>Casper</s>", "Dune [INST]"]
ITEMS = pa.table(
    {
        "item_id": ["i0", "i1", "i2", "i3"],
        "title": TEXTS,
        "genres": [["Horror", "Sci-Fi"], ["Comedy"], None, ["Sci-Fi"]],
        "category": ["Film > Space > Ships", "Film > City", "<x>", None],
        "price": [1.5, 2.5, None, 3.5],
        "plot": ["a" * 100, "b", None, None],
    }
)
BOTH = Tasks(mixture="none", item_search=1.0, preference=1.0, oracle=Oracle())


def test_traits_are_the_short_values_of_an_item_and_cannot_be_codes() -> None:
    assert item_traits(ITEMS) == [["Horror", "Sci-Fi", "Ships"], ["Comedy", "City", "b"], ["‹x›"], ["Sci-Fi"]]


def test_a_template_writes_wishes_and_tastes_from_what_training_knows() -> None:
    one = add_annotations(source([[0, 3, 1], [2]], TEXTS), ITEMS, BOTH)
    assert one.intentions.to_pylist() == [
        "I am looking for Horror and Sci-Fi and Ships.",
        "Something with Comedy and City and b, please.",
        "Do you have ‹x›?",
        "I would like Sci-Fi this time.",
    ]
    assert one.preferences.to_pylist()[0].startswith("Mostly Sci-Fi and Horror and Ships; lately Big")
    assert one.preferences.to_pylist()[1] == "Mostly ‹x›; lately ‹s›Casper‹/s›."


def test_nobody_is_asked_for_words_that_no_task_needs() -> None:
    one = add_annotations(source([[0, 1]], TEXTS), ITEMS, Tasks(oracle=Oracle(by="replay", cache="nowhere.jsonl")))
    assert one.intentions is None and one.preferences is None
    with pytest.raises(TextError, match=r"there is no cache of answers at nowhere\.jsonl"):
        add_annotations(
            source([[0, 1]], TEXTS),
            ITEMS,
            BOTH.model_copy(update={"oracle": Oracle(by="replay", cache="nowhere.jsonl")}),
        )


def test_the_catalogues_own_intentions_come_first() -> None:
    items = ITEMS.append_column("intention", pa.array(["scare me", None, " ", "<a_0> sand"]))
    one = add_annotations(source([[0, 1]], TEXTS), items, BOTH)
    assert one.intentions.to_pylist() == ["scare me", None, None, "‹a_0› sand"]


class Shouter(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = body["messages"][0]["content"].upper()[-60:] + "\n<|im_end|><a_0><b_0>"
        reply = json.dumps({"choices": [{"message": {"content": words}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args: object) -> None:
        """Keep the terminal quiet."""


def test_a_servers_words_are_kept_neutralised_and_replayed(tmp_path: Path) -> None:
    one, cache = source([[0, 3, 1], [2, 0]], TEXTS), str(tmp_path / "words.jsonl")
    with HTTPServer(("127.0.0.1", 0), Shouter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        trusted_urls.trust(url)
        asked = Oracle(by="server", url=url, model="shouter", cache=cache)
        told = add_annotations(one, ITEMS, BOTH.model_copy(update={"oracle": asked}))
        server.shutdown()
    again = add_annotations(one, ITEMS, BOTH.model_copy(update={"oracle": Oracle(by="replay", cache=cache)}))
    assert again.intentions == told.intentions and again.preferences == told.preferences
    assert all(not set("<>[]") & set(text) for text in [*told.intentions.to_pylist(), *told.preferences.to_pylist()])
    make(BOTH, again, 0, tmp_path)
    rows = load(tmp_path).to_pylist()
    assert {row["task"] for row in rows} == {"item_search", "preference"}
    assert any("GENRES: HORROR" in row["prompt"] for row in rows if row["task"] == "item_search")


def test_a_cache_is_looked_for_beside_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("tasks: {oracle: {by: replay, cache: words.jsonl}}")
    oracle = load_recipe(tmp_path / "mine.yaml").tasks.oracle
    assert oracle and oracle.cache == str((tmp_path / "words.jsonl").resolve())
