"""Measure speed side by side with what the field does, and write a JSON into results/."""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.cli.screen import console

app = typer.Typer(no_args_is_help=True)
RESULTS = Path("results")


@app.callback()
def _options() -> None:
    """Ratios, each from one run in which the contenders take turns."""


@app.command()
def decode(
    part: str = typer.Argument("all", help="which figures: engines, http, curves, step, loss or all"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON files and plots"),
    dtype: str = typer.Option("bfloat16", help="of the weights: bfloat16 or float32"),
    static: Path = typer.Option(None, help="a checkout of youtube/static-constraint-decoding to time beside ours"),
    run: Path = typer.Option(None, help="a run folder, for what beam search loses against exact scoring"),
    tiny: bool = typer.Option(False, help="a size that proves the path and not the numbers"),
) -> None:
    """Constrained decoding: against `generate` with a dictionary, bare prefill, STATIC, exact scoring."""
    from llmrec.bench.decode import TINY, Size, bench

    for path in bench(part, out, TINY if tiny else Size(), dtype, static, run):
        console.print(str(path), markup=False, highlight=False)


@app.command()
def train(
    part: str = typer.Argument("all", help="which figures: memory, speed, feeding or all"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON files and plots"),
    work: Path = typer.Option(Path("runs/.bench-train"), help="folder for prepared runs, kept for the next time"),
    tiny: bool = typer.Option(False, help="a size that proves the path and not the numbers"),
) -> None:
    """Training: against a bare loop, against an example per prefix, memory of new tokens."""
    from llmrec.bench.train import measure

    for path in measure(part, out, work, tiny, lambda line: console.print(line, markup=False, highlight=False)):
        console.print(str(path), markup=False, highlight=False)


@app.command()
def data(
    part: str = typer.Argument("all", help="which figures: log, metrics, peer or all"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON files"),
    events: int = typer.Option(100_000_000, help="interactions of the generated log"),
    memory: float = typer.Option(4.0, help="GiB that DuckDB may hold"),
    peer: Path = typer.Option(None, help="a checkout of MiniOneRec, to time its pre-processing beside ours"),
    work: Path = typer.Option(None, help="folder for generated logs, kept for the next time"),
    tiny: bool = typer.Option(False, help="a size that proves the path and not the numbers"),
) -> None:
    """Data: a log of a hundred million rows through 5-core, split and histories; metrics; a peer's script."""
    from llmrec.bench.data import TINY, Size, bench

    size = TINY if tiny else Size(events=events, memory=memory)
    for path in bench(part, out, size, peer, work, lambda line: console.print(line, markup=False, highlight=False)):
        console.print(str(path), markup=False, highlight=False)


@app.command()
def tasks(
    part: str = typer.Argument("all", help="which figures: speed, large or all"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON files"),
    peer: Path = typer.Option(None, help="a checkout of LC-Rec, to time its construction of examples beside ours"),
    users: int = typer.Option(2000, help="speed: users of Amazon Beauty"),
    rounds: int = typer.Option(3, help="speed: of taking turns"),
    events: int = typer.Option(10_000_000, help="large: interactions of the generated log"),
    work: Path = typer.Option(Path("runs/.bench-tasks"), help="folder for the prepared run, kept for the next time"),
) -> None:
    """Tasks: LC-Rec's mixture beside LC-Rec's own construction of it; memory of ten million interactions."""
    from llmrec.bench.tasks import large, speed
    from llmrec.errors import RunError

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    if part not in ("speed", "large", "all"):
        raise RunError(f"there is no part '{part}'. Parts: speed, large, all")
    if part != "large" and peer is None:
        raise RunError("the speed is measured beside LC-Rec: give --peer DIR, a checkout of zhengbw0324/LC-Rec")
    paths = [speed(peer, users, rounds, out, work, tell)] if part != "large" else []
    paths += [large(events, out, tell)] if part != "speed" else []
    for path in paths:
        tell(str(path))


@app.command()
def align(
    part: str = typer.Argument("all", help="which figures: prompt, rollouts or all"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
    dtype: str = typer.Option("float32", help="of the weights: bfloat16 or float32"),
    tiny: bool = typer.Option(False, help="a size that proves the path and not the numbers"),
) -> None:
    """Alignment: answers behind one shared prompt, roll-outs beside TRL's way to draw them."""
    from llmrec.bench.align import TINY, Size, bench

    path = bench(part, out, TINY if tiny else Size(), dtype)
    console.print(str(path), markup=False, highlight=False)


@app.command()
def serve(
    run: Path = typer.Argument(help="a run folder with its data"),
    engine: str = typer.Option("vllm", help="vllm or transformers"),
    dtype: str = typer.Option("auto", help="of vLLM's weights"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
    tiny: bool = typer.Option(False, help="a size that proves the path and not the numbers"),
) -> None:
    """Serving: requests a second and latency over HTTP, beside the engine offline and one bare token."""
    from llmrec import extras
    from llmrec.decode.recommender import engine_named

    extras.need("serve" if engine == "vllm" else "http")
    from llmrec.bench.serve import TINY, Size, bench

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    tell(str(bench(run, engine_named(engine), out, TINY if tiny else Size(), dtype, tell)))


@app.command()
def indexing(
    part: str = typer.Argument("all", help="million, beauty, rq-vae, new, error, dominance, cold, peer or all"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
    items: int = typer.Option(1_000_000, help="million: generated vectors, of 384 numbers"),
    epochs: int = typer.Option(2000, help="rq-vae, peer: passes at most"),
    peer: Path = typer.Option(None, help="a checkout of MiniOneRec, to train its RQ-VAE beside ours"),
    work: Path = typer.Option(Path("runs/.bench-indexing"), help="folder of the runs, kept for the next time"),
    tiny: bool = typer.Option(False, help="a size that proves the path and not the numbers"),
) -> None:
    """Indexing: a million vectors, Amazon Beauty, RQ-VAE, new items and their recall, faiss's and MiniOneRec's."""
    from llmrec.bench.indexing import bench

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    tell(str(bench(part, out, items, epochs, peer, work, tiny, tell)))


@app.command()
def chat(
    part: str = typer.Argument(help="which figures: text, dialogues or all"),
    run: Path = typer.Argument(help="a run folder with its data"),
    users: int = typer.Option(900, help="users at most"),
    encoder: str = typer.Option("minilm-l6", help="of free words: minilm-l6 or hashing"),
    seed: int = typer.Option(42, help="of who is asked, and of guests' words"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON files and the plot"),
) -> None:
    """Chat: a genre that is asked for, and dialogues with simulated guests, words understood or not."""
    from llmrec import extras

    extras.need("chat", "http")
    from llmrec.bench.chat import bench

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    for path in bench(part, run, encoder, users, seed, out, tell):
        tell(str(path))


@app.command()
def rate(
    part: str = typer.Argument("speed", help="which figures: speed or table"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file and figure"),
    model: str = typer.Option("embedded:smollm2-135m-instruct", help="speed: a base"),
    cases: int = typer.Option(128, min=1, help="speed: prompts of a round"),
    rounds: int = typer.Option(3, min=1, help="speed: of taking turns"),
    study: Path = typer.Option(None, help="table: a folder that `llmrec rate` made"),
    name: str = typer.Option("ml-100k", help="table: of the result"),
) -> None:
    """Rating prediction: vLLM beside batched `generate`; the table of a study as a result and a figure."""
    from llmrec import extras
    from llmrec.bench import rate as bench
    from llmrec.errors import RunError

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    if part not in ("speed", "table"):
        raise RunError(f"there is no part '{part}'. Parts: speed, table")
    if part == "table" and study is None:
        raise RunError("the table is that of a study: give --study DIR, a folder that `llmrec rate` made")
    if part == "speed":
        extras.need("serve")
    for path in [bench.speed(model, cases, rounds, out, tell)] if part == "speed" else bench.table(study, name, out):
        tell(str(path))
