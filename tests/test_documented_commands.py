"""Every command and every Python block of README and docs runs, in a folder like that of a new user."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from documented import PAGES, ROOT, blocks, commands

from llmrec import resources

LLMREC = Path(sys.executable).with_name("llmrec")
TINY = "indexing: {width: 8}\nmodel: {width: 64, layers: 2, heads: 2, vocabulary: 500}\n"

# What of a command is changed so that it ends here: (pattern, replacement, why). A command is otherwise as written.
CHANGED = [
    (r"model\.adapt=lora$", "model.adapt=lora model.base=embedded:smollm2-135m-instruct", "nano takes no adapters"),
    (r"^\.venv/bin/", "", "the tests' own environment"),
    (r"\bshared/recipes/|/shared/runs/", "runs/", "no disk that machines share"),
    (r"^(llmrec run (?!.*--(tiny|until)).*)$", r"\1 --until catalogue", "training is shown by other tests"),
    (r"^(llmrec run .*--tiny)$", r"\1 --until tasks", "as above"),
    (r"launch\.(processes|nodes)=\d+", r"launch.\1=2", "settings are checked, nothing is launched before training"),
    (r"launch\.node_rank=1 *", "", "machine 1 waits for machine 0"),
    (r"Qwen/Qwen3-0\.6B", "embedded:smollm2-135m-instruct", "no model hub"),
    (r"^llmrec run beauty-smollm2 ", "llmrec run recipes/x.yaml ", "the data set is not here"),
    (r"^(llmrec rate .*)$", r"\1 --cases 8", "2,000 questions take minutes"),
    (r"--method regression( --share 0\.05)?", "--method regression --share 0.001 --epochs 1", "as above"),
    (r"--data mine\.yaml", "--data ml-100k", "as above"),
    (r"--data ml-latest-small", "--data ml-100k", "the data set is not here"),
    (r"--out recs\.parquet", "--out recs.parquet --force", "other pages write it, too"),
    (r"--user 196", "--user 450", "the tiny run has a sample of the users"),
    (
        r"^llmrec tasks show quickstart",
        "llmrec tasks show runs/quickstart",
        "would make the whole quickstart's examples",
    ),
    (r"-- --gpu-memory.*$", "", "no GPU"),
]
# Commands that cannot run here, by their beginning, and why.
LEFT_OUT = {
    "git clone": "no network",
    "make ": "would run the tests inside the tests; `.ci/run` runs setup and the tests by README's commands",
    "pip install": "the environment is made by `make setup`",
    "llmrec data fetch": "no network; tests/data/test_fetch.py fetches from a server of its own",
    "llmrec reproduce": "trains for an hour; tests/results runs it on a small result",
    "accelerate launch": "tests/run/test_launch.py launches processes",
    "llmrec rate --data ml-100k --model NAME": "needs a server; tests/rate asks one",
    "python scripts/": "measurements; tests/scripts runs them at a small size or reads their help",
    "LLMREC_DATA": "as above",
    "curl": "needs the server's keys; tests/serve asks every route",
    "export": "as above",
    "tensorboard": "no part of llmrec",
    "sh run.sh": "tests/scripts packs and runs a bundle",
}
NEEDS_VLLM = re.compile(r"^llmrec serve (?!.*--engine transformers)|--engine vllm")
STAYS = re.compile(r"^llmrec serve |--page\b")  # commands that run until they are stopped


def every_command() -> list[tuple[str, str]]:
    """(page, command) of every page; of commands that are run alike, the first."""
    first: dict[str, tuple[str, str]] = {}
    for page in PAGES:
        for command in commands(page) if page.name != "how-to-add.md" else []:  # tests/test_how_to_add.py
            first.setdefault(changed(command), (page.name, command))
    return list(first.values())


def runs_here(command: str) -> bool:
    return not any(command.startswith(start) for start in LEFT_OUT)


def changed(command: str) -> str:
    for pattern, replacement, _ in CHANGED:
        command = re.sub(pattern, replacement, command)
    return command


RUN = [row for row in every_command() if runs_here(row[1])]


def test_the_pages_hold_commands_and_no_exception_is_for_nothing() -> None:
    every = [command for _, command in every_command()]
    assert len(RUN) > 40
    assert all(any(command.startswith(start) for command in every) for start in LEFT_OUT)
    for page in PAGES:
        fences = re.findall(r"^```(\w*)$", page.read_text(), re.M)
        assert "" not in fences[::2], f"{page.name}: a fenced block without a language"
        assert not re.search(r"^    (llmrec|python|make|pip) ", page.read_text(), re.M), f"{page.name}: not fenced"


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LLMREC, *arguments], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new user's folder: files of a shop, a recipe, a tiny run of the quickstart under the names that pages use."""
    if not all(resources.is_downloaded(name) for name in ("ml-100k", "minilm-l6")):
        pytest.skip("MovieLens 100K and MiniLM are not in the cache: `llmrec setup` fetches them")
    folder = tmp_path_factory.mktemp("user")
    rows = [f"c{user},s{(user * 7 + step * 3) % 40},2024-01-{step + 1:02d}" for user in range(60) for step in range(12)]
    (folder / "orders.csv").write_text("\n".join(["customer,sku,ordered_at", *rows, ""]))
    products = [
        {"id": f"s{n}", "name": f"Mug {n}", "brand": f"Brand {n % 5}", "category": f"Kind {n % 3}"} for n in range(40)
    ]
    (folder / "products.jsonl").write_text("".join(json.dumps(product) + "\n" for product in products))
    [recipe] = blocks(ROOT / "README.md", "yaml")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "x.yaml").write_text(
        recipe.replace("orders.csv", "../orders.csv").replace("products.jsonl", "../products.jsonl") + TINY
    )
    made = call(folder, "run", "quickstart", "--tiny", "--out", "runs/quickstart")
    assert made.returncode == 0, made.stderr
    for name in ("NAME", "OTHER", "A", "B", "large"):
        subprocess.run(["cp", "-r", "runs/quickstart", f"runs/{name}"], cwd=folder, check=True)
    films = pa.table({"item_id": ["n1", "n2"], "title": ["The Newest Film", "The Next Film"]})
    pq.write_table(films, folder / "new.parquet")
    pa.csv.write_csv(films, folder / "new-items.csv")
    return folder


@pytest.mark.slow("commands of the documentation, some seconds each")
@pytest.mark.parametrize(("page", "command"), RUN, ids=[f"{page}: {command[:70]}" for page, command in RUN])
def test_a_command_of_the_documentation_runs(
    page: str, command: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    if NEEDS_VLLM.search(command):
        pytest.importorskip("vllm", reason="this command needs vLLM")
    words = shlex.split(changed(command))
    assert words[0] == "llmrec", f"{page}: {command}: neither run nor in LEFT_OUT"
    names = {"RECIPE": "recipes/x.yaml", "FILES": "orders.csv products.jsonl", "recipe.yaml": "recipes/x.yaml"}
    words = [part for word in words for part in (names[word].split() if word in names else [word])]
    if words[:2] == ["llmrec", "init"]:
        words += ["--out", f"written-{abs(hash(command))}.yaml"]
    if "http://127.0.0.1:8000" in words:
        words[words.index("http://127.0.0.1:8000")] = request.getfixturevalue("server")
    if STAYS.search(command):
        _starts_and_stops(folder, words)
        return
    done = call(folder, *words[1:])
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def _starts_and_stops(folder: Path, words: list[str]) -> None:
    """Start a server, wait until its port answers, stop it as Ctrl-C does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [LLMREC, *words[1:], "--port", str(port)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait(port, process)
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert "Traceback" not in output, output


def _wait(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing answers on port {port}")


def programs() -> list[tuple[str, str]]:
    """(page, code): the Python blocks of a page are one program; what asks vLLM's own routes is one of its own."""
    rows = []
    for page in PAGES:
        for vllm in (False, True):
            parts = [block for block in blocks(page, "python") if ("vllm_xargs" in block) == vllm]
            if parts and page.name != "how-to-add.md":  # tests/test_how_to_add.py
                rows.append((page.name, "\n".join(parts)))
    return rows


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """A server of the run, at the address that pages name, or at a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "runs/quickstart", "--engine", "transformers", "--without-key", "--port", str(port)]
    process = subprocess.Popen(
        [LLMREC, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, text=True
    )
    try:
        _wait(port, process)
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


@pytest.mark.slow("Python blocks of the documentation, some seconds each")
@pytest.mark.parametrize(("page", "code"), programs())
def test_the_python_of_a_page_runs(page: str, code: str, folder: Path, server: str) -> None:
    if "vllm_xargs" in code:
        pytest.importorskip("vllm", reason="this program asks vLLM's own routes")
    code = re.sub(r"http://(localhost|127\.0\.0\.1):8000", server, code)
    code = code.replace('{"train.0.epochs": 10}', '{"train.0.epochs": 1}, tiny=True')  # the whole takes ten minutes
    quiet = os.environ | {"OPENAI_API_KEY": "none", "LLMREC_API_KEY": "none"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}\n{code}\n{done.stderr[-3000:]}"
