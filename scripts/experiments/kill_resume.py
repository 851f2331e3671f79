"""Kill a tiny run with SIGKILL at 20 random moments, spread over all stages, and go on each time.

Its files must be those of an uninterrupted run.

python scripts/experiments/kill_resume.py quickstart --set items.encoder=hashing         → results/kill-resume.json
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

from commands import typed
from llmrec.files import hash_file
from llmrec.results.record import write_result
from llmrec.stage_record import RECORD_FILE

KILLS = {"data": 2, "items": 2, "catalogue": 3, "tasks": 2, "train": 5, "collaborative": 2, "evaluate": 2, "report": 2}
PLACES = {
    "train": "train-*",
    "collaborative": "collaborative/*",
    "evaluate": "evaluate-*",
}  # folders; others bear the name
LONGEST = {"train": 4.0, "evaluate": 1.5, "report": 3.0}  # seconds into a stage; .3 for the short ones


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


def working(out: Path, stage: str, since: float) -> bool:
    """Whether a run started at `since` has begun to fill the folder of a stage; folders left by a kill are older."""
    name = Path(PLACES.get(stage, stage))
    found = next(out.glob("recipe.yaml" if stage == "report" else f"{name.parent}/.{name.name}.partial"), None)
    try:
        return found is not None and found.stat().st_ctime >= since
    except FileNotFoundError:  # it became the stage's folder just now
        return False


def reopen(out: Path, stage: str) -> None:
    """Take away a stage that an earlier kill came too late for, so that it is made, and killed, once more."""
    for folder in out.glob(PLACES.get(stage, stage)):
        shutil.rmtree(folder)


def files(out: Path) -> dict[str, str]:
    """Hash of every file of a run that should not depend on when it was made."""
    timed = {RECORD_FILE, "log.jsonl", "report.html", ".lock"}  # seconds stand in these
    whole = (path for path in sorted(out.rglob("*")) if path.relative_to(out).parts[0] != "logs")  # of trackers
    found = (path for path in whole if path.is_file() and path.name not in timed)
    return {path.relative_to(out).as_posix(): hash_file(path) for path in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    draw, whole, broken = random.Random(options.seed), Path("runs/kill-whole"), Path("runs/kill-broken")
    for folder in (whole, broken):
        shutil.rmtree(folder, ignore_errors=True)
    assert start(options.recipe, whole, options.set).wait() == 0
    killed: dict[str, int] = {}
    for stage, kills in KILLS.items():
        for _ in range(kills):
            reopen(broken, stage)
            since, process = time.time(), start(options.recipe, broken, options.set)
            while process.poll() is None and not working(broken, stage, since):
                time.sleep(0.005)
            time.sleep(draw.uniform(0, LONGEST.get(stage, 0.3)))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed[stage] = killed.get(stage, 0) + 1
    assert start(options.recipe, broken, options.set).wait() == 0
    same, other = files(whole), files(broken)
    differing = sorted(name for name in same.keys() | other.keys() if same.get(name) != other.get(name))
    figures = {"killed at": killed, "kills": sum(killed.values()), "files": len(same), "differing": differing}
    print(figures)
    write_result(Path("results/kill-resume.json"), typed(), figures, recipe=options.recipe, seed=options.seed)
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
