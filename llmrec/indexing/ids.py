"""Item number by item id, for millions of ids: 12 bytes an item, and no Python object for any item.

Ids are hashed to 64 bits, and the hashes are sorted. A look-up is a binary search in the hashes and a comparison of the
ids with that hash, so ids whose hashes collide are still found correctly.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BLOCK = 1 << 16  # ids that are hashed at once
_FACTOR = 0x9E3779B97F4A7C15  # odd; the bytes of an id are the digits of a number to this base, modulo 2**64
_MASK = (1 << 64) - 1


@dataclass(frozen=True, eq=False)
class IdIndex:
    """Item numbers by id.

    Attributes:
        ids: (items,) large_binary, UTF-8, without nulls; item numbers are positions.
        hashes: (items,) uint64, sorted.
        order: (items,) int32, the item number of each hash.
    """

    ids: pa.Array
    hashes: np.ndarray
    order: np.ndarray

    @classmethod
    def build(cls, ids: pa.Array) -> IdIndex:
        """Hash and sort (items,) large_string ids."""
        ids = ids.cast(pa.large_binary())
        hashes = _hashes(ids)
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        return cls(ids, hashes[order], order)

    @property
    def has_duplicates(self) -> bool:
        """Whether an id occurs twice."""
        same = np.append(self.hashes[1:] == self.hashes[:-1], False)
        suspects = self.order[same | np.roll(same, 1)]
        return len(suspects) > 0 and pc.count_distinct(self.ids.take(pa.array(suspects))).as_py() < len(suspects)

    def numbers(self, ids: Iterable[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """(n,) int64 item number of each of n ids; -1 for an unknown id."""
        if isinstance(ids, (pa.Array, pa.ChunkedArray)):
            ids = flat(ids).cast(pa.large_binary())
        else:
            ids = pa.array(map(_utf8, ids), pa.large_binary())
        hashes, result = _hashes(ids), np.full(len(ids), -1, np.int64)
        position, rows = np.searchsorted(self.hashes, hashes), np.arange(len(ids))
        while len(rows):  # one round, except for ids whose hash another id has
            rows = rows[position[rows] < len(self.hashes)]
            rows = rows[self.hashes[position[rows]] == hashes[rows]]
            number = self.order[position[rows]]
            equal = pc.equal(self.ids.take(pa.array(number)), ids.take(pa.array(rows))).to_numpy(zero_copy_only=False)
            result[rows[equal]] = number[equal]
            rows = rows[~equal]
            position[rows] += 1
        return result

    def number(self, item_id: str) -> int:
        """The item number of one id, in a few microseconds; -1 for an unknown id."""
        text, key = _utf8(item_id), 0
        for byte in reversed(text):
            key = (key * _FACTOR + byte + 1) & _MASK
        position = bisect_left(self._sorted, key)
        while position < len(self._sorted) and self._sorted[position] == key:
            number = int(self.order[position])
            if self.ids[number].as_py() == text:
                return number
            position += 1
        return -1

    @cached_property
    def _sorted(self) -> memoryview:
        """The hashes as a sequence of Python integers, without copying."""
        return self.hashes.data


def flat(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Ids as one array of large_string, however they are chunked or encoded."""
    ids = ids.cast(pa.large_string())
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids


def hash_ids(ids: pa.Array) -> str:
    """SHA-256 over the lengths in bytes, and then the bytes, of (items,) ids, large_string or large_binary."""
    offsets, data = _buffers(ids)
    digest = hashlib.sha256(np.diff(offsets).astype("<i8").data)
    digest.update(data[offsets[0] : offsets[-1]].data)
    return digest.hexdigest()


def _utf8(item_id: str) -> bytes:
    """The bytes of an id; a lone surrogate, which no catalogue id has, is encoded and not found."""
    return item_id.encode(errors="surrogatepass")


def _buffers(ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(items + 1,) int64 where each id begins, and the bytes of all of them."""
    if not len(ids):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _, offsets, data = ids.buffers()
    bounds = np.frombuffer(offsets, np.int64)[ids.offset : ids.offset + len(ids) + 1]
    return bounds, np.frombuffer(data or b"", np.uint8)


def _hashes(ids: pa.Array) -> np.ndarray:
    """(n,) uint64 hashes of large_binary ids: sum of (byte + 1) * _FACTOR**position, modulo 2**64."""
    offsets, data = _buffers(ids)
    hashes = np.zeros(len(ids), np.uint64)
    for first in range(0, len(ids), _BLOCK):
        bounds = offsets[first : first + _BLOCK + 1]
        lengths, starts = np.diff(bounds), bounds[:-1] - bounds[0]
        digits = data[bounds[0] : bounds[-1]].astype(np.uint64) + np.uint64(1)
        powers = np.full(max(1, lengths.max()), _FACTOR, np.uint64)
        powers[0] = 1
        np.cumprod(powers, out=powers)
        digits *= powers[np.arange(len(digits)) - np.repeat(starts, lengths)]
        nonempty = lengths > 0  # reduceat would give an empty id the first byte of the next
        if nonempty.any():
            hashes[first : first + _BLOCK][nonempty] = np.add.reduceat(digits, starts[nonempty])
    return hashes
