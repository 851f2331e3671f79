"""The trie's part of a decoding step, by catalogue size: expand every beam, score its children, keep the best.

The grid is fixed: 8 users with 50 beams each, whose prefixes have 1, 8 or 64 children
whatever the size of the catalogue, so that a difference between sizes is the catalogue's alone. Beside it the four
steps of a whole search over codes as clusters of items give them, where prefixes of a larger catalogue do have more
children. Figures are minima over many repetitions.

Part `step` of decode.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decode_peers import Static
from decode_subject import skewed_codes, trie_of
from llmrec import provenance
from llmrec.decode.filters import BatchFilters, Filter
from llmrec.decode.scorer import Logits
from llmrec.decode.search import Beams, expand, init_beams, merge, split_finished, top_k_per_row
from llmrec.indexing.trie import Trie
from shared import alone, peak_gib

USERS, BEAMS, WIDTH, SEEN = 8, 50, 256, 200
CHILDREN = (1, 8, 64)


def grid_codes(items: int) -> np.ndarray:
    """(about items, 4) symbols; the prefixes of three have 1, 8 and 64 children in turn, scattered over all codes."""
    prefixes = np.arange(items * len(CHILDREN) // sum(CHILDREN)) * 0x9E3779 % 2**24  # an odd factor: all different
    counts = np.resize(CHILDREN, len(prefixes))
    prefix = np.repeat(prefixes, counts)
    last = np.arange(len(prefix)) - np.repeat(np.cumsum(counts) - counts, counts)
    codes = np.stack([prefix >> 16, (prefix >> 8) & 255, prefix & 255, last], axis=1).astype(np.int32)
    return codes + np.arange(4, dtype=np.int32) * WIDTH


def measure_steps(sizes: list[int], repeats: int, static: Path | None) -> dict[str, Any]:
    """Milliseconds of a step by catalogue size and number of children, with and without 200 items denied."""
    found: dict[str, Any] = {}
    for items in sizes:
        codes = grid_codes(items)
        trie, build = _built(codes)
        peer = None if static is None else Static(static, trie, WIDTH)
        found[str(items)] = build | {
            "children": {str(count): _measure(trie, count, repeats, peer) for count in CHILDREN},
            "search": _search(items, repeats),
        }
    for system in ("step_ms", "seen_ms", "static_ms"):
        if static is not None or system != "static_ms":
            _add_growth(found, sizes, system)
    return found


def _built(codes: np.ndarray) -> tuple[Trie, dict[str, float]]:
    """A trie, and the seconds and memory that a fresh process needs to build one as large."""
    trie = Trie.build(codes, 4 * WIDTH)
    seconds, added = alone(_build_alone, len(codes))
    return trie, {"items": len(trie), "nodes": len(trie.start), "build_s": seconds, "build_peak_gib": added}


def _build_alone(items: int) -> tuple[float, float]:
    """Seconds of a build, and GiB that it adds to a process that holds the codes."""
    codes = skewed_codes(np.random.default_rng(0), items) + np.arange(4, dtype=np.int32) * WIDTH
    provenance.reset_peak_memory()
    before = peak_gib()
    begin = time.perf_counter()
    Trie.build(codes, 4 * WIDTH)
    return round(time.perf_counter() - begin, 3), round(peak_gib() - before, 3)


def _measure(trie: Trie, children: int, repeats: int, peer: Static | None) -> dict[str, float]:
    random = np.random.default_rng(children)
    live = _beams(trie, children, random)
    logits = Logits(torch.randn(USERS, BEAMS, 4 * WIDTH), None)
    none = BatchFilters(trie, None, USERS)
    filters = [Filter.of(trie, _seen(trie, live, row, children, random)) for row in range(USERS)]
    batch_filters = BatchFilters(trie, filters, USERS)
    calls: dict[str, Callable[[], Any]] = {
        "step_ms": lambda: _step(trie, none, live, logits),
        "seen_ms": lambda: _step(trie, batch_filters, live, logits),
        "filters_ms": lambda: BatchFilters(trie, filters, USERS),
    }
    if peer is not None:
        flat, states = logits.symbols[:, :, 3 * WIDTH :].reshape(-1, WIDTH), peer.states(3, trie.start[live.node])
        scores = torch.from_numpy(live.score).float()
        calls["static_ms"] = lambda: peer.step(flat, states, 3, scores, USERS, BEAMS)
        _agree(calls["step_ms"](), calls["static_ms"]())
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: round(1e3 * min(some), 3) for name, some in times.items()}


def _agree(ours: tuple[Beams, Beams], peer: torch.Tensor) -> None:
    """Both must have found as many continuations, or their times mean nothing."""
    found = np.concatenate([part.row for part in ours])
    assert np.bincount(found, minlength=USERS).tolist() == np.isfinite(peer.numpy()).sum(1).clip(max=BEAMS).tolist()


def _beams(trie: Trie, children: int, random: np.random.Generator) -> Beams:
    """50 beams a user at prefixes of three symbols that have so many children."""
    nodes = np.arange(trie.level[3], trie.level[4])
    nodes = nodes[np.diff(trie.first_child)[nodes] == children]
    chosen = np.stack([np.sort(random.choice(nodes, BEAMS, replace=False)) for _ in range(USERS)])
    live = Beams.roots(np.repeat(np.arange(USERS), BEAMS))
    score = np.random.default_rng(0).normal(size=len(live.row))
    return Beams(live.row, chosen.reshape(-1).astype(np.int64), score, score, live.query, live.symbol)


def _seen(trie: Trie, live: Beams, row: int, children: int, random: np.random.Generator) -> np.ndarray:
    """200 items, a tenth of them under the user's beams where those have more than one child."""
    seen = random.choice(len(trie), SEEN, replace=False)
    if children > 1:
        under = trie.order[trie.start[live.node[live.row == row]]]
        seen[: SEEN // 10] = under[: SEEN // 10]
    return seen


def _step(trie: Trie, batch_filters: BatchFilters, live: Beams, logits: Logits) -> tuple[Beams, Beams]:
    """What `beam_search` does between two passes of the model."""
    _, grown = expand(trie, batch_filters, live, logits, "catalogue")
    done, rest, _ = split_finished(
        trie, batch_filters, top_k_per_row(merge(trie, live[:0], grown), BEAMS, USERS), "catalogue"
    )
    return done, rest


def _search(items: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of each step of a search with random logits, and of compiling the filters of its users."""
    random = np.random.default_rng(1)
    trie = trie_of(items)
    seen = [Filter.of(trie, random.choice(items, SEEN, replace=False)) for _ in range(USERS)]
    logits = [Logits(2 * torch.randn(USERS, BEAMS, 4 * WIDTH), None) for _ in range(trie.depth)]
    found = {}
    for name, filters in (("step_ms", None), ("seen_ms", seen)):
        each = np.array([_search_once(trie, filters, logits) for _ in range(repeats)])
        best = each[each.sum(1).argmin()]
        found[name] = {"filters": round(best[0], 3), "steps": np.round(best[1:], 3).tolist()}
    return found


def _search_once(trie: Trie, filters: list[Filter] | None, logits: list[Logits]) -> list[float]:
    """Milliseconds of the filters and of every step."""
    begin = time.perf_counter()
    batch_filters = BatchFilters(trie, filters, USERS)
    _ = batch_filters.denied_nodes
    spent = [time.perf_counter() - begin]
    live = init_beams(batch_filters)
    for level in range(trie.depth):
        begin = time.perf_counter()
        if len(live.row):
            _, live = _step(trie, batch_filters, live, logits[level])
        spent.append(time.perf_counter() - begin)
    return [1e3 * one for one in spent]


def _add_growth(found: dict[str, Any], sizes: list[int], system: str) -> None:
    """How many times longer a step takes in the largest catalogue than in the smallest."""
    first, last = found[str(sizes[0])]["children"], found[str(sizes[-1])]["children"]
    found.setdefault("growth", {})[system] = {
        count: round(last[count][system] / first[count][system], 3) for count in first
    }
