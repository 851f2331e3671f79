"""The command line: each verb explains itself, known errors are one message and exit code 2, JSON is JSON."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from llmrec import __version__, cli, resources
from llmrec.cli.main import main

CLI = Path(cli.__file__).parent
VERBS = [path.stem.replace("_", "-") for path in sorted(CLI.glob("*.py")) if "\ndef command(" in path.read_text()]
GROUPS = [path.stem for path in sorted(CLI.glob("*.py")) if "\napp = typer.Typer(no_args" in path.read_text()]


@dataclass
class Done:
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture
def llmrec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line, in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["llmrec", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        told = capsys.readouterr()
        return Done(code, told.out, told.err)

    return call


@pytest.mark.parametrize("verb", [*VERBS, *GROUPS])
def test_every_verb_explains_itself(verb: str, llmrec: Callable[..., Done]) -> None:
    done = llmrec(verb, "--help")
    assert done.code == 0
    assert f"llmrec {verb}" in done.out


def test_the_version_is_the_package_s(llmrec: Callable[..., Done]) -> None:
    assert llmrec("--version").out.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere"], "RecipeError: there is no recipe 'nowhere'"),
        (["run", "quickstart", "sede=1"], "Did you mean 'seed'?"),
        (["run", "quickstart", "--until", "training"], "--until training is not a stage. Stages: data, items"),
        (["recommend", "{empty}", "--history", "i1"], "is not a run folder"),
        (["recommend", "{run}"], "give one of --user ID, --history ID"),
        (["recommend", "{run}", "--user", "u1", "--history", "i1"], "give one of --user ID"),
        (["recommend", "{run}", "--user", "u999"], "there is no user 'u999' in"),
        (["recommend", "{run}", "--history", "zz"], "no item of the history is in the catalogue: 'zz'"),
        (["recommend", "{run}", "--history", "i1", "-k", "0"], "k must be between 1 and"),
        (["evaluate", "{empty}"], "is not a run folder"),
        (["evaluate", "{run}", "--split", "train"], "--split must be test or valid, not 'train'"),
        (["evaluate", "{run}", "--beams", "2"], "cannot rank the 5 items"),
        (["report", "{empty}"], "is not a run folder"),
        (["setup", "ml-1m"], "'ml-1m' is not bundled with llmrec"),
    ],
)
def test_a_known_error_is_one_message_and_exit_code_2(
    arguments: list[str], words: str, llmrec: Callable[..., Done], tiny_run: Path, tmp_path: Path
) -> None:
    done = llmrec(*(part.format(run=tiny_run, empty=tmp_path) for part in arguments))
    assert done.code == 2
    assert words in done.err
    assert done.err.count("Error: ") == 1
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.parametrize("arguments", [["run"], ["nonsense"], ["run", "quickstart", "--no-such-option"]])
def test_a_misspelt_command_is_exit_code_2(arguments: list[str], llmrec: Callable[..., Done]) -> None:
    assert llmrec(*arguments).code == 2


def test_bad_data_in_a_run_is_told_and_leaves_no_stage(
    llmrec: Callable[..., Done], world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world.parent, tmp_path / "world")
    with (tmp_path / "world" / "log.csv").open("a") as log:
        log.write("u1,i1,late\n")
    done = llmrec("run", tmp_path / "world" / "recipe.yaml", "--out", tmp_path / "run")
    assert done.code == 2
    assert "log.csv, line 842: timestamp 'late' does not parse" in done.err  # 60 users × 14 events and a header
    assert not (tmp_path / "run" / "data").exists()


def test_a_run_that_is_made_is_shown_again_in_json(llmrec: Callable[..., Done], world: Path, tiny_run: Path) -> None:
    done = llmrec("run", world, "--out", tiny_run, "--json")
    told = json.loads(done.out)
    assert told["run"] == str(tiny_run)
    assert told["systems"] == json.loads((tiny_run / "evaluate-test" / "metrics.json").read_text())["systems"]
    assert "report        100%" in done.err, "progress goes to the other stream"


def test_a_run_ends_with_a_table_and_a_person(llmrec: Callable[..., Done], world: Path, tiny_run: Path) -> None:
    done = llmrec("run", world, "--out", tiny_run)
    for words in ("popularity", "HR@5", "Recommended:", "Film number", "report.html"):
        assert words in done.out


def test_a_dry_run_prints_the_recipe_and_makes_nothing(
    llmrec: Callable[..., Done], world: Path, tmp_path: Path
) -> None:
    done = llmrec("run", world, "train.0.epochs=3", "--dry-run", "--out", tmp_path / "run")
    assert yaml.safe_load(done.out)["train"][0]["epochs"] == 3
    assert not (tmp_path / "run").exists()


def test_until_says_where_it_stopped(llmrec: Callable[..., Done], world: Path, tmp_path: Path) -> None:
    done = llmrec("run", world, "--until", "items", "--out", tmp_path / "run", "--json")
    assert json.loads(done.out) == {"run": str(tmp_path / "run"), "until": "items"}
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == ["data", "items"]


def test_recommendations_for_a_user_are_those_for_their_history(llmrec: Callable[..., Done], tiny_run: Path) -> None:
    from llmrec.data.dataset import Dataset

    rows = Dataset.load(tiny_run / "data").interactions.to_pylist()
    history = ",".join(row["item_id"] for row in rows if row["user_id"] == "u7")
    one = llmrec("recommend", tiny_run, "--user", "u7", "-k", 4, "--json")
    other = llmrec("recommend", tiny_run, "--history", history, "-k", 4, "--json")
    found = json.loads(one.out)
    assert found == json.loads(other.out)
    assert [list(item) for item in found] == [["item_id", "title", "score"]] * 4
    unseen = llmrec("recommend", tiny_run, "--user", "u7", "-k", 4, "--json", "--unseen")
    assert not {item["item_id"] for item in json.loads(unseen.out)} & set(history.split(","))
    assert found == json.loads(llmrec("recommend", tiny_run, "--user", "u7", "-k", 4, "--json", "--seen").out), (
        "the recipe allows items of the history"
    )


def test_an_unknown_item_in_a_history_is_a_note_and_no_error(llmrec: Callable[..., Done], tiny_run: Path) -> None:
    done = llmrec("recommend", tiny_run, "--history", "i1, zz ,i2", "--json")
    assert done.code == 0
    assert "note: left out of the history" in done.err
    assert len(json.loads(done.out)) == 10


@pytest.fixture
def mine(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "mine"))


def figures(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_figures_that_are_gone_are_made_again_the_same(llmrec: Callable[..., Done], mine: Path) -> None:
    before = figures(mine / "evaluate-test")
    for gone in ("evaluate-test", "collaborative/popularity"):
        shutil.rmtree(mine / gone)
    done = llmrec("evaluate", mine, "--json")
    assert json.loads(done.out) == before == figures(mine / "evaluate-test"), done.err
    assert "train" not in done.err.split()


def test_another_split_is_judged_into_a_folder_of_its_own(llmrec: Callable[..., Done], mine: Path) -> None:
    before = figures(mine / "evaluate-test")
    valid = json.loads(llmrec("evaluate", mine, "--split", "valid", "--json").out)
    assert valid["protocol"]["target"] == "valid"
    assert (figures(mine / "evaluate-test"), figures(mine / "evaluate-valid")) == (before, valid)


def test_figures_by_other_settings_are_shown_and_not_kept(llmrec: Callable[..., Done], mine: Path) -> None:
    shutil.rmtree(mine / "collaborative" / "popularity")
    files = {path: path.read_bytes() for path in (mine / "evaluate-test").iterdir()}
    wide = json.loads(llmrec("evaluate", mine, "--beams", 20, "--json").out)
    assert wide["protocol"]["beams"] == 20 and "popularity" in wide["systems"]
    assert {path: path.read_bytes() for path in (mine / "evaluate-test").iterdir()} == files


@pytest.mark.parametrize("gone", ["train-1-sft", "tasks"])
def test_evaluating_trains_nothing(gone: str, llmrec: Callable[..., Done], mine: Path) -> None:
    shutil.rmtree(mine / gone)
    done = llmrec("evaluate", mine)
    assert done.code == 2 and f"{gone} is not made. Finish the run with: llmrec run" in done.err
    assert not (mine / gone).exists()


def test_a_shut_test_part_is_opened_by_one_option_alone_and_noted(
    llmrec: Callable[..., Done], mine: Path, tmp_path: Path
) -> None:
    before = figures(mine / "evaluate-test")["systems"]
    shutil.rmtree(mine / "evaluate-test")
    recipe = yaml.safe_load((mine / "recipe.yaml").read_text())
    recipe["evaluate"]["split"] = "valid"
    (mine / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = llmrec("evaluate", mine, "--split", "test")
    assert done.code == 2 and "keeps its test part closed" in done.err
    assert json.loads(llmrec("evaluate", mine, "--json").out)["protocol"]["target"] == "valid"
    assert not (mine / "evaluate-test").exists()
    ledger = tmp_path / "ledger.jsonl"
    done = llmrec("evaluate", mine, "--test", "--ledger", ledger, "--why", "to see", "--json")
    assert json.loads(done.out)["systems"] == before == figures(mine / "evaluate-test")["systems"], done.err
    [line] = map(json.loads, ledger.read_text().splitlines())
    assert (line["why"], line["run"]) == ("to see", "mine")


VERBS_THAT_READ = [
    ("evaluate",),
    ("evaluate", "--split", "valid"),
    ("evaluate", "--beams", "20"),
    ("report",),
    ("compare", "{run}"),
    ("index", "show"),
    ("data", "show"),
    ("tasks", "show"),
]


@pytest.mark.parametrize("verb", VERBS_THAT_READ, ids=" ".join)
def test_a_run_of_two_recipes_is_refused_by_every_verb_that_reads_it(
    verb: tuple[str, ...], llmrec: Callable[..., Done], mine: Path
) -> None:
    recipe = (mine / "recipe.yaml").read_text()
    (mine / "recipe.yaml").write_text(recipe.replace("seed: 7", "seed: 8"))
    names = list(verb)
    place = 2 if verb[0] in ("index", "data", "tasks") else 1
    done = llmrec(*names[:place], mine, *(name.format(run=mine) for name in names[place:]))
    assert done.code == 2 and "go back to the recipe before" in " ".join(done.err.split()), done.err
    assert not done.out


def test_the_report_is_written_again(llmrec: Callable[..., Done], tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "report.html").unlink(missing_ok=True)
    done = llmrec("report", run, "--json")
    assert json.loads(done.out) == {"report": str(run / "report.html")}
    assert (run / "report.html").is_file()


def test_the_doctor_says_what_to_type(
    llmrec: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path))
    findings = json.loads(llmrec("doctor", "--json").out)
    missing = {finding["what"]: finding["remedy"] for finding in findings if not finding["ok"]}
    assert missing[resources.ASSETS["ml-100k"].what] == "llmrec setup"
    assert "→ llmrec setup" in llmrec("doctor").out


def test_the_recipe_schema_accepts_what_the_recipe_accepts(llmrec: Callable[..., Done]) -> None:
    schema = json.loads(llmrec("recipe-schema").out)
    assert set(schema["properties"]) == {
        "seed",
        "data",
        "items",
        "indexing",
        "tasks",
        "model",
        "train",
        "evaluate",
        "launch",
        "chat",
    }
    assert schema["additionalProperties"] is False


def test_what_is_said_stays_however_small_the_rest_becomes(llmrec: Callable[..., Done], world: Path) -> None:
    told = llmrec("run", world, "--tiny", "--dry-run", "train.0.epochs=3", "tasks.history=12").out
    assert "epochs: 3.0" in told and "history: 12" in told and "max_users: 200" in told
    assert "epochs: 1.0" in llmrec("run", world, "--tiny", "--dry-run").out


def test_a_model_that_another_recipe_replaces_is_told(
    llmrec: Callable[..., Done], world: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    assert "has a model of another recipe" not in llmrec("run", world, "--out", run).err
    assert "has a model of another recipe" in llmrec("run", world, "--out", run, "seed=8", "--until", "data").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("recommend", "RUN", "--all-users", "--out", "recs.csv"), "Name a file that ends in .parquet"),
        (("evaluate", "RUN", "--beams", "0"), "beams"),
        (("reproduce", "RUN/recipe.yaml"), "otherwise correct it"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(
    arguments: tuple[str, ...], words: str, llmrec: Callable[..., Done], tiny_run: Path
) -> None:
    done = llmrec(*(part.replace("RUN", str(tiny_run)) for part in arguments))
    assert done.code == 2
    assert words in " ".join(done.err.split())


def test_a_run_s_examples_can_be_shown_with_changes(llmrec: Callable[..., Done], tiny_run: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = llmrec("tasks", "show", tiny_run, "tasks.templates=1", "--json")
    assert done.code == 0, done.err
    assert (tmp_path / "runs" / ".tasks" / "tiny").is_dir()
