"""Kill a tiny run with SIGKILL at random moments, go on each time, and compare its files with an uninterrupted run's.

python scripts/kill_resume.py quickstart --kills 20
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from llmrec.files import hash_file
from llmrec.results import write_result
from llmrec.stage import MADE


def start(recipe: str, out: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    """The run as its own process group, quiet."""
    command = [
        sys.executable,
        "-m",
        "llmrec.cli.main",
        "run",
        recipe,
        "--tiny",
        "--out",
        str(out),
        "--json",
        *overrides,
    ]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def stage_of(out: Path) -> str:
    """The stage that a run is at, by what is finished."""
    order = {"data": "items", "items": "catalogue", "catalogue": "tasks", "tasks": "train"}
    at = "data"
    for before, after in order.items():
        at = after if (out / before / MADE).is_file() else at
    if next(out.glob(f"train-*/{MADE}"), None):
        at = "report" if next(out.glob(f"train-*/eval/{MADE}"), None) else "evaluate"
    return at


def files(out: Path) -> dict[str, str]:
    """Hash of every file of a run that should not depend on when it was made."""
    timed = {MADE, "log.jsonl", "report.html", ".lock"}  # seconds stand in these
    found = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in timed)
    return {path.relative_to(out).as_posix(): hash_file(path) for path in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    draw, whole, broken = random.Random(options.seed), Path("runs/kill-whole"), Path("runs/kill-broken")
    for folder in (whole, broken):
        shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    assert start(options.recipe, whole, options.set).wait() == 0
    length = time.monotonic() - began
    killed: dict[str, int] = {}
    # Later kills wait longer, since every new start must first get past what is done: all stages are met.
    for number in range(options.kills):
        process = start(options.recipe, broken, options.set)
        time.sleep(draw.uniform(0.15, 0.35 + 0.65 * (number + 1) / options.kills) * length)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed[stage_of(broken)] = killed.get(stage_of(broken), 0) + 1
        elif stage_of(broken) == "report":  # it had ended: begin anew, so that the kills that remain hit something
            shutil.rmtree(broken)
    assert start(options.recipe, broken, options.set).wait() == 0
    same, other = files(whole), files(broken)
    differing = sorted(name for name in same.keys() | other.keys() if same.get(name) != other.get(name))
    figures = {"killed at": killed, "kills": sum(killed.values()), "files": len(same), "differing": differing}
    print(figures)
    command = "python " + " ".join(["scripts/kill_resume.py", *sys.argv[1:]])
    write_result(Path("results/kill-resume.json"), command, figures, recipe=options.recipe, seed=options.seed)
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
