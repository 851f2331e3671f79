"""Data sets that can be had elsewhere: how large, on what terms, from where. None of them comes with llmrec.

Addresses are those that their makers publish. MovieLens publishes an MD5 beside each archive; the Amazon files have no
published checksum, so what is fetched first is remembered and later fetches are held against it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from llmrec import embedded
from llmrec.errors import DataError

_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_MCAULEY = "https://mcauleylab.ucsd.edu/public_datasets/data"


@dataclass(frozen=True)
class Origin:
    """Where a data set comes from.

    Attributes:
        about: what it is.
        size: how large, in words.
        licence: in a line; the full terms are at `page`.
        page: for people.
        addresses: files to fetch; `{category}` stands for a category of Amazon's.
        md5: file name → checksum, where it is known beforehand.
        published: whether each address has its checksum beside it, at `ADDRESS.md5`.
    """

    about: str
    size: str
    licence: str
    page: str
    addresses: tuple[str, ...] = ()
    md5: tuple[tuple[str, str], ...] = ()
    published: bool = False

    @property
    def by_category(self) -> bool:
        """Whether a category must be named."""
        return any("{category}" in address for address in self.addresses)


_LENS = "GroupLens: research use, credit in publications; no redistribution or commercial use without permission"
_AMAZON = "no licence stated: made for research (McAuley); reviews belong to their authors"

ORIGINS: dict[str, Origin] = {
    "ml-100k": Origin(
        "MovieLens 100K, carried by a package (`llmrec setup`)",
        "943 users, 1,682 films, 100,000 ratings; 5 MB",
        embedded.ARCHIVES["ml-100k"].licence,
        "https://grouplens.org/datasets/movielens/100k/",
    ),
    "ml-1m": Origin(
        "MovieLens 1M",
        "6,040 users, 3,883 films, 1,000,209 ratings; 6 MB",
        _LENS,
        "https://grouplens.org/datasets/movielens/1m/",
        (f"{_GROUPLENS}/ml-1m.zip",),
        (("ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"),),
    ),
    "ml-32m": Origin(
        "MovieLens 32M",
        "200,948 users, 87,585 films, 32,000,204 ratings; 240 MB",
        _LENS,
        "https://grouplens.org/datasets/movielens/32m/",
        (f"{_GROUPLENS}/ml-32m.zip",),
        published=True,
    ),
    "ml-latest-small": Origin(
        "MovieLens latest-small; its makers change it from time to time",
        "610 users, 9,742 films, 100,836 ratings; 1 MB",
        _LENS,
        "https://grouplens.org/datasets/movielens/latest/",
        (f"{_GROUPLENS}/ml-latest-small.zip",),
        published=True,
    ),
    "amazon-beauty-2014": Origin(
        "Amazon Beauty, the 5-core of the literature, prepared",
        "22,363 users, 12,101 items, 198,502 interactions; positions, no clock times",
        _AMAZON,
        "https://jmcauley.ucsd.edu/data/amazon/links.html",
    ),
    "amazon-games-2018": Origin(
        "Amazon Video Games as in LC-Rec, prepared",
        "50,546 users, 16,859 items, 452,989 interactions; positions, no clock times",
        _AMAZON,
        "https://nijianmo.github.io/amazon/",
    ),
    "amazon-reviews-2014": Origin(
        "Amazon Reviews 2014, raw: reviews (5-core) and metadata of a category",
        "24 categories, 83 million reviews in all",
        _AMAZON,
        "https://jmcauley.ucsd.edu/data/amazon/links.html",
        (f"{_SNAP}/reviews_{{category}}_5.json.gz", f"{_SNAP}/meta_{{category}}.json.gz"),
    ),
    "amazon-reviews-2018": Origin(
        "Amazon Reviews 2018, raw: reviews and metadata of a category",
        "29 categories, 233 million reviews in all",
        _AMAZON,
        "https://nijianmo.github.io/amazon/",
        (
            f"{_MCAULEY}/amazon_v2/categoryFiles/{{category}}.json.gz",
            f"{_MCAULEY}/amazon_v2/metaFiles2/meta_{{category}}.json.gz",
        ),
    ),
    "amazon-reviews-2023": Origin(
        "Amazon Reviews 2023, raw: reviews and metadata of a category",
        "33 categories, 571 million reviews in all",
        _AMAZON,
        "https://amazon-reviews-2023.github.io/",
        (
            f"{_MCAULEY}/amazon_2023/raw/review_categories/{{category}}.jsonl.gz",
            f"{_MCAULEY}/amazon_2023/raw/meta_categories/meta_{{category}}.jsonl.gz",
        ),
    ),
}


def places(name: str) -> list[Path]:
    """Folders that a data set may lie in: $LLMREC_DATA/NAME first, then where `llmrec data fetch` puts it."""
    root = os.environ.get("LLMREC_DATA")
    return [*([Path(root) / name] if root else []), fetched(name)]


def fetched(name: str) -> Path:
    """The folder that `llmrec data fetch NAME` fills."""
    return embedded.cache_folder() / "data" / name


def folder(name: str) -> Path:
    """The first of `places` that is there.

    Raises:
        DataError: none is.
    """
    found = next((place for place in places(name) if place.is_dir()), None)
    if found:
        return found
    remedy = f" Or fetch it: llmrec data fetch {name}" if ORIGINS[name].addresses else ""
    root = os.environ.get("LLMREC_DATA")
    where = f"{root} has no folder {name}" if root else "the variable LLMREC_DATA is not set"
    raise DataError(
        f"data.source: {name} is read from $LLMREC_DATA/{name}, but {where}. Set it: export LLMREC_DATA=FOLDER{remedy}"
    )
