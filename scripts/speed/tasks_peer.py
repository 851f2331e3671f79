"""LC-Rec's own construction of examples, from a checkout that the user gives: its data sets and collator, unchanged.

Its files are imported from that folder while a bench runs; nothing of it is part of llmrec.
"""

from __future__ import annotations

import importlib
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.errors import RunError
from llmrec.files import write_json
from llmrec.tasks.inputs import TaskInputs

BATCH = 8  # per device, in its run.sh
_FILES = ("data", "prompt", "collator")


@dataclass(frozen=True)
class Peer:
    """LC-Rec's classes, and the folder with its files of our data.

    Attributes:
        modules: name → module of the checkout.
        arguments: as its command line would give them.
        fused: how many fused examples it samples.
    """

    modules: dict[str, Any]
    arguments: SimpleNamespace
    fused: int

    def construct(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
        """Every example of its mixture, batch by batch, as its trainer would ask for them.

        Returns:
            Examples, and tokens without padding.
        """
        random.seed(0)
        np.random.seed(0)
        data, collate = self.modules["data"], self.modules["collator"].Collator(self.arguments, tokenizer)
        sets = [
            data.SeqRecDataset(self.arguments, "train"),
            data.ItemFeatDataset(self.arguments, "item2index"),
            data.ItemFeatDataset(self.arguments, "index2item"),
            data.FusionSeqRecDataset(self.arguments, "train", sample_num=self.fused),
            data.ItemSearchDataset(self.arguments, "train"),
            data.PreferenceObtainDataset(self.arguments),
        ]
        tokens = 0
        for one in sets:
            for start in range(0, len(one), BATCH):
                batch = collate([one[number] for number in range(start, min(start + BATCH, len(one)))])
                tokens += int(batch["attention_mask"].sum())
        return sum(len(one) for one in sets), tokens


def peer_of(checkout: Path, source: TaskInputs, held_out: np.ndarray, folder: Path, history: int, fused: int) -> Peer:
    """Write our data in LC-Rec's files and import its code.

    Args:
        checkout: a folder with LC-Rec's data.py, prompt.py and collator.py.
        source: the training part, with intentions and preferences.
        held_out: (users, 2) the last two items of each user, which it leaves out by itself.
        folder: for its files.
        history: items that its prompts hold.
        fused: how many fused examples it samples.

    Raises:
        RunError: that is no such checkout.
    """
    missing = [name for name in _FILES if not (checkout / f"{name}.py").is_file()]
    if missing:
        raise RunError(f"{checkout} holds no {missing[0]}.py. Give --peer a checkout of zhengbw0324/LC-Rec.")
    assert source.intentions is not None and source.preferences is not None
    home = folder / "bench"
    home.mkdir(parents=True, exist_ok=True)
    train = {str(user): row.tolist() for user, row in enumerate(source.train)}
    write_json(home / "bench.inter.json", {u: row + held_out[int(u)].tolist() for u, row in train.items()})
    codes = [[f"<{token}>" for token in code[1:-1].split("><")] for code in source.codes.to_pylist()]
    write_json(home / "bench.index.json", {str(item): code for item, code in enumerate(codes)})
    texts = zip(source.titles.to_pylist(), source.texts.to_pylist(), strict=True)
    items = {str(item): {"title": title, "description": text} for item, (title, text) in enumerate(texts)}
    write_json(home / "bench.item.json", items)
    wishes = source.intentions.to_pylist()
    searched = {u: {"item": row[-1], "inters": row[:-1], "querys": [wishes[row[-1]]] * 2} for u, row in train.items()}
    likes = {str(user): [words] for user, words in enumerate(source.preferences.to_pylist())}
    about = {"user_explicit_preference": likes, "user_vague_intention": {"train": searched}}
    write_json(home / "bench.user.json", about)
    arguments = SimpleNamespace(
        dataset="bench",
        data_path=str(folder),
        max_his_len=history,
        his_sep=", ",
        index_file=".index.json",
        add_prefix=False,
        only_train_response=True,
    )
    return Peer(_imported(checkout), arguments, fused)


def _imported(checkout: Path) -> dict[str, Any]:
    sys.path.insert(0, str(checkout))
    try:
        return {name: importlib.import_module(name) for name in _FILES}
    except ImportError as error:
        raise RunError(f"{checkout} cannot be imported: {error}. Install what it asks for beside llmrec.") from error
    finally:
        sys.path.remove(str(checkout))
