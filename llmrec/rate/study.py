"""One protocol, many systems: a folder that holds the cases and what every system predicted for them.

OUT/protocol.json          data, split, cases; another protocol needs another folder
OUT/systems/NAME.json      predicted ratings of one system, and what they cost; written last
OUT/answers/…  OUT/tuned/… what is needed to go on where a killed command was
OUT/figures.json           the table over all systems there
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.errors import RunError
from llmrec.files import explain_disk, hash_json, read_json, write_json
from llmrec.rate.baselines import BASELINES
from llmrec.rate.cases import Cases, sample
from llmrec.rate.judge import Judge, sliced
from llmrec.rate.ratings import TEST, VALID, Ratings

AGAINST = ["global mean", "user mean", "item mean", "user + item bias"]


_REMEDY = "Delete the file, and type the command again."


class _Kept(TypedDict):
    """What a system predicted, of systems/NAME.json."""

    system: str
    facts: dict[str, Any]
    predicted: list[float]


@dataclass(frozen=True)
class Study:
    """A folder of one protocol.

    Attributes:
        ratings: all of the data.
        cases: to be judged on.
        out: the folder.
        seed: of cases, examples, training and intervals.
    """

    ratings: Ratings
    cases: Cases
    out: Path
    seed: int

    @classmethod
    def open(cls, ratings: Ratings, count: int | None, places: int, seed: int, out: Path, part: int = TEST) -> Study:
        """Draw the cases, and hold the folder to this protocol.

        Args:
            count: cases; None for all.
            places: ratings that a history holds.
            part: that cases are drawn from: the test, or where learning rates and the like are chosen, `VALID`.

        Raises:
            RunError: the folder was made with another protocol; in what they differ. Or it holds files of others.
            DataError: nothing is held out.
        """
        _refuse_foreign(out)
        study = cls(ratings, sample(ratings, part, count, places, seed), out, seed)
        path, wanted = out / "protocol.json", study.protocol
        if path.is_file():
            found = read_json(path)
            other = [
                f"{key} {found.get(key)} there, {wanted[key]} here" for key in wanted if found.get(key) != wanted[key]
            ]
            if other:
                raise RunError(f"{out} was made with another protocol ({'; '.join(other)}). Choose another --out.")
        else:
            write_json(path, wanted)
        return study

    @property
    def protocol(self) -> dict[str, Any]:
        """What has to be equal for two systems to be compared."""
        return {
            **self.ratings.facts,
            "cases": len(self.cases),
            "history": self.cases.history.shape[1],
            "liked from": self.ratings.scale.liked,
            "seed": self.seed,
            **({"judged on": "validation ratings"} if self._validates else {}),
            "hash": hash_json([self.cases.events.tolist(), self.ratings.given[self.cases.events].tolist()])[:16],
        }

    @property
    def _validates(self) -> bool:
        return bool((self.ratings.parts[self.cases.events] == VALID).all())

    @property
    def judge(self) -> Judge:
        """Of these cases."""
        events = self.cases.events
        return Judge(self.ratings.given[events], self.ratings.users[events], self.ratings.scale.liked, self.seed)

    def has(self, system: str) -> bool:
        """Whether a system's predictions are there."""
        return self._path(system).is_file()

    def keep(self, system: str, predicted: np.ndarray, facts: dict[str, Any]) -> None:
        """Keep what a system predicted."""
        write_json(self._path(system), {"system": system, "facts": facts, "predicted": np.round(predicted, 5).tolist()})

    def kept(self) -> dict[str, dict[str, Any]]:
        """Every system there: baselines first, then by name, numbers as numbers.

        Raises:
            RunError: the file of one is damaged.
        """
        found: dict[str, dict[str, Any]] = {}
        for file in (self.out / "systems").glob("*.json"):
            one = read_checked(file, _Kept, _REMEDY)
            if len(one["predicted"]) != len(self.cases):
                raise RunError(f"{file} has {len(one['predicted'])} predictions for {len(self.cases)} cases. {_REMEDY}")
            found[one["system"]] = one
        first = [name for name in BASELINES if name in found]
        return {name: found[name] for name in [*first, *sorted(found.keys() - BASELINES.keys(), key=_place)]}

    def baselines(self, progress: Callable[[str, float], None]) -> None:
        """Let every baseline predict that has not."""
        for number, (name, fit) in enumerate(BASELINES.items()):
            if not self.has(name):
                begin = time.perf_counter()
                model = fit(self.ratings, self.seed)
                middle = time.perf_counter()
                predicted = model.predict(self.cases)
                spent = {
                    "seconds to fit": middle - begin,
                    "seconds each": (time.perf_counter() - middle) / len(self.cases),
                }
                self.keep(name, predicted, {key: round(value, 5) for key, value in spent.items()})
            progress("baselines", (number + 1) / len(BASELINES))

    def figures(self) -> dict[str, Any]:
        """The table over all systems there; also written to `figures.json`."""
        kept, judge = self.kept(), self.judge
        predictions = {name: np.array(one["predicted"]) for name, one in kept.items()}
        table = judge.table(predictions, AGAINST)
        known = self.cases.known.lengths
        systems = {
            name: {**table[name], "slices": sliced(judge, predictions[name], known), "facts": kept[name]["facts"]}
            for name in kept
        }
        found = {"protocol": self.protocol, "systems": systems}
        write_json(self.out / "figures.json", found)
        return found

    def _path(self, system: str) -> Path:
        return self.out / "systems" / f"{slug(system)}.json"


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder with files that no study wrote: some of them may be called as a study's are."""
    with explain_disk(out):
        if os.path.lexists(out) and not out.is_dir():
            raise RunError(f"{out} is no folder. Name another with --out DIR.")
        found = read_json(out / "protocol.json") if (out / "protocol.json").is_file() else None
        ours = isinstance(found, dict) and found.keys() >= {"cases", "hash"}
        if out.is_dir() and any(out.iterdir()) and not ours:
            raise RunError(
                f"{out} holds other files and no study of `llmrec rate`. Name another folder with --out DIR."
            )


def _place(name: str) -> list[str | int]:
    """Where a system stands in the table: asked before trained, 5 % before 20 %."""
    parts = re.split(r"(\d+)", name.replace("zero-shot", "0-shot").replace(",", " "))
    return [int(part) if part.isdigit() else part for part in parts]


def slug(text: str) -> str:
    """A name that can stand for a file."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
