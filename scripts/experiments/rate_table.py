"""Write an experiment of `llmrec rate` as a result, with a figure beside it.

python scripts/experiments/rate_table.py FOLDER --name ml-100k      → results/rate-ml-100k.json and .svg

FOLDER is what `llmrec rate` wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.files import read_json
from llmrec.rate.baselines import BASELINES
from llmrec.report.result_charts import draw_dots as dots
from llmrec.results.record import write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True, help="of the result")
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    print(table(arguments.folder, arguments.name, arguments.out))


def table(folder: Path, name: str, out: Path) -> Path:
    """Write results/rate-NAME.json and its figure; returns the JSON file.

    Raises:
        RunError: the folder has no figures.
    """
    figures = read_json(folder / "figures.json")
    systems, path, bias = figures["systems"], out / f"rate-{name}.json", "user + item bias"
    note = f"Dots: all cases; bars: 95 % intervals over users; line: {bias}"
    panels = {"rmse": "RMSE (left is better)", "auc": "AUC (right is better)"}
    dots(systems, panels, systems.keys() - BASELINES.keys(), path.with_suffix(".svg"), bias, note)
    command = f"python scripts/experiments/rate_table.py {folder.name} --name {name}"
    write_result(path, command, systems, protocol=figures["protocol"])
    return path


if __name__ == "__main__":
    main()
