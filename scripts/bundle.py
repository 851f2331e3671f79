"""Pack a run for a machine with a GPU and no network, in small pieces, and bring what it measured back.

python scripts/bundle.py pack beauty-smollm2 --to bundle   here: prepares the run up to its examples, packs it
sh run.sh                                                  there, in the folder with the pieces: trains, judges
python scripts/bundle.py take back.tar.gz --runs runs      here: figures and logs, no weights, into the run's folder

The machine needs Python, torch, transformers and what these need. The rest travels as wheels: what `llmrec[train]` asks
for, TensorBoard apart, beyond the packages named in --have (a `pip freeze` of that machine; torch and transformers with
their needs otherwise). Pieces are put together by run.sh, which checks them; the same command goes on with a training
that was stopped. `take` leaves a run that `scripts/seeds.py --collect` reads.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO

from packaging.requirements import Requirement

from llmrec import provenance, resources
from llmrec.data import sources
from llmrec.files import hash_file, write_text
from llmrec.recipe import Recipe
from llmrec.recipe_file import dump, load, portable
from llmrec.run import execute
from llmrec.run.layout import RunFolder

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
STANDS = ("torch", "transformers")  # on every such machine
AT_REST = ("tensorboard", "bitsandbytes")  # training does without trackers, and but for QLoRA without these 60 MB
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 29)),
    *(f"manylinux{n}_x86_64" for n in (1, 2010, 2014)),
)


def plain(name: str) -> str:
    """A package's name as an index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(name: str, extras: Iterable[str] = ()) -> set[str]:
    """A package and all that it asks for here, by plain names; what is not installed is left out."""
    found, left = set(), [(plain(name), tuple(extras))]
    while left:
        package, wanted = left.pop()
        if package in found and not wanted:
            continue
        try:
            asked = metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(package)
        for need in map(Requirement, asked):
            meant = need.marker is None or any(need.marker.evaluate({"extra": one}) for one in ("", *wanted))
            if meant and plain(need.name) not in found:
                left.append((plain(need.name), tuple(need.extras)))
    return found


def missing(have: Path | None, qlora: bool = False) -> list[str]:
    """`name==version` of what llmrec needs and that machine lacks, as installed here."""
    asked = [Requirement(line) for line in metadata.requires("llmrec") or []]
    roots = {plain(one.name) for one in asked if one.marker is None or one.marker.evaluate({"extra": "train"})}
    roots -= {name for name in AT_REST if not (qlora and name == "bitsandbytes")}
    wanted = {name for root in roots for name in needs(root)}
    if have:
        there = {plain(re.split(r"[=@ <>;\[]", line, maxsplit=1)[0]) for line in have.read_text().splitlines() if line}
    else:
        there = {name for stands in STANDS for name in needs(stands)}
    return [f"{name}=={metadata.version(name)}" for name in sorted(wanted - there)]


def fetch_wheels(wanted: list[str], python: str, folder: Path) -> None:
    """Wheels for that machine's Python, each alone."""
    chosen = [part for name in PLATFORMS for part in ("--platform", name)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    subprocess.run([*command, "--python-version", python, *chosen, *wanted], check=True)


def contents(recipe: Recipe, run: Path, wheels: Path) -> Iterator[tuple[Path, str]]:
    """What travels: path here, path in the bundle."""
    command = ["git", "-C", str(ROOT), "ls-files", "llmrec", "prompts", "recipes"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    yield from ((ROOT / name, f"checkout/{name}") for name in listed)
    yield from ((file, f"wheels/{file.name}") for file in sorted(wheels.glob("*.whl")))
    made = RunFolder(run)
    for stage in (made.data, made.items, made.catalogue, made.tasks):
        yield stage, f"runs/{run.name}/{stage.name}"
    kept = {recipe.data.source, recipe.model.base.removeprefix("embedded:")} & set(resources.ASSETS)
    yield from ((resources.asset_path(name), f"cache/{name}") for name in sorted(kept))
    if recipe.data.source not in kept:
        folder = "" if recipe.data.source == "files" else f"{recipe.data.source}/"
        paths = [path for _, path in sources.source_files(recipe.data) if path.is_file()]
        yield from ((path, f"data/{folder}{path.name}") for path in paths)


def there(recipe: Recipe) -> Recipe:
    """The recipe as that machine reads it: somebody's own files lie in `data/`."""
    bare = portable(recipe)
    files = {name: f"data/{value}" for name in ("interactions", "items") if (value := getattr(bare.data, name))}
    return bare.model_copy(update={"data": bare.data.model_copy(update=files)})


class Pieces:
    """A file in pieces of at most so many bytes, as something to write to."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size, self.number, self.left = folder, size, 0, 0
        self.file: IO[bytes] | None = None

    def write(self, data: bytes) -> int:
        """Write all of it, into as many pieces as it takes."""
        view = memoryview(data)
        while view:
            if not self.left:
                self.close()
                self.file, self.left = (self.folder / f"piece-{self.number:03d}").open("wb"), self.size
                self.number += 1
            part = view[: self.left]
            assert self.file is not None
            self.file.write(part)
            self.left, view = self.left - len(part), view[len(part) :]
        return len(data)

    def close(self) -> None:
        """End the piece at hand."""
        if self.file:
            self.file.close()


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier bundle."""
    ours = re.compile(r"piece-\d+|SHA256SUMS|run\.sh")
    if folder.exists() and not all(file.is_file() and ours.fullmatch(file.name) for file in folder.iterdir()):
        raise SystemExit(f"{folder} holds other files than a bundle, and is left as it is. Name another with --to.")


def pack(options: argparse.Namespace) -> None:
    """Prepare the run, and write pieces, their hashes and run.sh."""
    refuse_foreign(options.to)
    path = resources.recipe_path(options.recipe)
    recipe = load(path, options.set, options.tiny)
    run = options.runs / (options.name or path.stem)
    execute.run(recipe, run, "tasks")
    options.to.mkdir(parents=True, exist_ok=True)
    for file in options.to.iterdir():
        file.unlink()
    with tempfile.TemporaryDirectory() as folder:
        if not options.no_wheels:
            qlora = "qlora" in {recipe.model.adapt, *(stage.adapt for stage in recipe.train)}
            fetch_wheels(missing(options.have, qlora), options.python, Path(folder))
        pieces = Pieces(options.to, options.piece * MIB)
        with tarfile.open(fileobj=pieces, mode="w|gz") as archive:  # type: ignore[call-overload]
            write_text(Path(folder) / "recipe.yaml", dump(there(recipe)))
            archive.add(Path(folder) / "recipe.yaml", "recipe.yaml", filter=_anonymous)
            for source, name in contents(recipe, run, Path(folder)):
                archive.add(source, name, filter=_anonymous)
        pieces.close()
    sums = "".join(f"{hash_file(file)}  {file.name}\n" for file in sorted(options.to.glob("piece-*")))
    write_text(options.to / "SHA256SUMS", sums)
    script = (ROOT / "scripts" / "bundle" / "run.sh").read_text()
    write_text(options.to / "run.sh", script.replace("@RUN@", run.name).replace("@COMMIT@", provenance.commit()))
    sizes = [file.stat().st_size for file in options.to.glob("piece-*")]
    print(f"{len(sizes)} pieces, {sum(sizes) / MIB:.1f} MiB together, in {options.to}. There: sh run.sh")


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, "", ""
    return entry


def take(options: argparse.Namespace) -> None:
    """Put what came back into the run's folder."""
    with tarfile.open(options.back) as archive:
        archive.extractall(options.runs, filter="data")
        runs = sorted({name.split("/")[0] for name in archive.getnames()})
    print("taken: " + ", ".join(str(options.runs / name) for name in runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("recipe", help="a shipped recipe's name, or a path")
    packing.add_argument("--to", type=Path, default=Path("bundle"))
    packing.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    packing.add_argument("--tiny", action="store_true")
    packing.add_argument("--name", help="of the run; the recipe's otherwise")
    packing.add_argument("--runs", type=Path, default=Path("runs"))
    packing.add_argument("--piece", type=int, default=60, metavar="MIB")
    packing.add_argument("--python", default="3.12", help="that machine's")
    packing.add_argument("--have", type=Path, metavar="FREEZE", help="pip freeze of that machine")
    packing.add_argument("--no-wheels", action="store_true", help="that machine has all that llmrec needs")
    packing.set_defaults(do=pack)
    taking = verbs.add_parser("take")
    taking.add_argument("back", type=Path)
    taking.add_argument("--runs", type=Path, default=Path("runs"))
    taking.set_defaults(do=take)
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
