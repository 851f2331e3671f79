"""An export is a plain folder that anybody opens; what cannot be exported is told, and nothing half-made is left."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import blocks

import llmrec
from llmrec.cli.main import main
from llmrec.contracts import Request
from llmrec.errors import RunError
from llmrec.export import export
from llmrec.files import read_json
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder, model_of, recipe_of
from llmrec.run.recommender import language_model


def python(script: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow("four processes that import transformers, a minute")
@pytest.mark.parametrize("kind", ["adapted", "scratch"])
def test_the_snippets_of_the_card_run_and_the_plain_one_needs_nothing_of_ours(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Both in one process, the plain one first; its tokens must be the ones that llmrec would ask with."""
    folder = request.getfixturevalue(kind)
    parts = blocks(folder)
    tell = "import sys\nassert 'llmrec' not in sys.modules\nprint(tokens['input_ids'][0].tolist())\n"
    plain, asked, recommended = python(parts["transformers"] + tell + parts["llmrec"], folder).splitlines()
    recommender = llmrec.load(folder)
    assert json.loads(asked) == recommender.recommender.prompt(Request([0, 1, 2]))
    assert plain in recommender.catalogue.code_texts  # trained well enough to say an item even unhelped
    items, scores = zip(*ast.literal_eval(recommended), strict=True)
    expected = dict(recommender.recommend(recommender.catalogue.item_ids[:3], 5))
    assert list(items) == list(expected)
    # another process may share its matrix products out over its threads in another way: float32's last digits differ
    assert list(scores) == pytest.approx(list(expected.values()), abs=1e-5)


def test_the_folder_holds_what_is_to_be_shared_and_nothing_of_this_machine(adapted: Path, base: Path) -> None:
    names = {path.relative_to(adapted).as_posix() for path in adapted.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "llmrec.json", "README.md"} <= names
    assert {"recommender.json", "catalogue/codes.npy"} <= names
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/vocabulary.json"} <= names
    assert not {name for name in names if name.endswith("made.json") or name.startswith(".")}
    for name in names:
        content = (adapted / name).read_bytes()
        assert str(base.parent).encode() not in content, f"{name} names a path of this machine"
        assert (adapted / name).stat().st_mode & 0o044, f"{name} can be read by its owner alone"


def test_nothing_that_a_run_made_is_left_out(learnt, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for method in ("lora", "full"):
        export(learnt(method), tmp_path / method)
    assert not [one for one in recwarn if "left out of the export" in str(one.message)]


def test_generation_takes_nothing_over_from_the_base(adapted: Path, base: Path) -> None:
    assert read_json(base / "generation_config.json")["top_k"] == 2
    ours = {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}
    assert set(read_json(adapted / "generation_config.json")) <= ours
    assert read_json(adapted / "config.json").get("use_cache", True) is True


def test_recommend_answers_from_an_export_as_from_its_run(
    tiny_run: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for folder in (tiny_run, scratch):
        monkeypatch.setattr(sys, "argv", ["llmrec", "recommend", str(folder), "--history", "i1,i2,i3", "--json"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] and len(told[0]) == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recommend", "{export}", "--user", "u1"], "is an export, which has no users: use --history"),
        (["evaluate", "{export}"], "is not a run folder"),
        (["export", "{export}", "{new}"], "is not a run folder"),
        (["export", "{run}", "{run}"], "is a folder with files in it, and an export overwrites nothing"),
        (["export", "{run}", "{run}/recipe.yaml"], "recipe.yaml is a file, and an export overwrites nothing"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_exit_code_2(
    arguments: list[str],
    words: str,
    tiny_run: Path,
    scratch: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [part.format(export=scratch, run=tiny_run, new=tmp_path / "new") for part in arguments]
    monkeypatch.setattr(sys, "argv", ["llmrec", *given])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_may_be_the_target_and_hidden_files_count_as_files(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert (export(tiny_run, tmp_path / "empty") / "config.json").is_file()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".git").write_text("")
    with pytest.raises(RunError, match="overwrites nothing"):
        export(tiny_run, tmp_path / "full")


def test_a_refusal_advises_to_delete_nothing_and_nothing_is_touched(tiny_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    for target in (copy, copy / "data", copy / "recipe.yaml", copy / "shared", copy / "train-1-sft" / "model" / "new"):
        with pytest.raises(RunError) as caught:
            export(copy, target)
        assert "rm " not in str(caught.value) and "remove" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


@pytest.mark.parametrize("name", ["x" * 300, "file/below", "round", "pipe", "a\0b"])
def test_a_target_that_can_be_no_folder_is_told(name: str, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunError):
        export(tiny_run, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_only_files_that_belong_are_shared_and_others_are_named(mixed_run: Path, mixed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mixed_run, tmp_path / "mixed"))
    strays = ["model/password.txt", "model/model.bak.safetensors", "model/sub/x", "../catalogue/notes.md"]
    strays += ["../collaborative/markov/more.npy"]
    for name in strays:
        (copy / "train-1-sft" / name).parent.mkdir(exist_ok=True)
        (copy / "train-1-sft" / name).write_text("secret")
    (copy / "train-1-sft" / "model" / "link.txt").symlink_to("/etc/hostname")
    with pytest.warns(UserWarning, match="left out of the export") as told:
        export(copy, tmp_path / "shared")
    said = " ".join(str(one.message) for one in told)
    assert all(Path(name).name in said for name in (*strays, "link.txt"))
    held = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (tmp_path / "shared", mixed)]
    assert held[0] == held[1]


@pytest.mark.parametrize(
    "name",
    [
        *("train-1-sft/model/config.json", "train-1-sft/model", "train-1-sft", "catalogue/items.parquet", "catalogue"),
        *("collaborative/markov/starts.npy", "collaborative/markov", "collaborative"),
    ],
)
def test_no_link_is_followed_out_of_the_run(name: str, mixed_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mixed_run, tmp_path / "run"))
    shutil.move(copy / name, tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link, or below one"):
        export(copy, tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_mount_point_is_not_replaced(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "mounted")
    with pytest.raises(RunError, match="Name a folder inside"):
        export(tiny_run, tmp_path / "mounted")


def test_a_full_disk_is_told_and_leaves_nothing(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if source.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(RunError, match="disk is full"):
        export(tiny_run, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_two_recipes_is_not_exported(tiny_run: Path, tmp_path: Path) -> None:
    """The catalogue is already that of the new recipe, the model still that of the old one."""
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    run(recipe_of(copy, ["indexing.width=9"]), copy, until="catalogue")
    with pytest.raises(RunError, match=r"tasks was made from another catalogue .* Finish it"):
        export(copy, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["train-1-sft/model/config.json", "catalogue/items.parquet", "data/items.parquet"])
def test_a_file_that_was_changed_in_the_run_is_not_shared(name: str, tiny_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    with pytest.raises(RunError, match=rf"{name} was changed after it was made"):
        export(copy, tmp_path / "new")


def test_an_export_of_an_older_version_is_refused_in_words(scratch: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(scratch, tmp_path / "older"))
    (older / "recommender.json").unlink()
    with pytest.raises(RunError, match=r"no recommender\.json.*older version.*llmrec export RUN DIR"):
        llmrec.load(older)


def test_vllm_finds_the_language_model_of_an_export_in_its_root(scratch: Path, mixed: Path, tiny_run: Path) -> None:
    assert [language_model(folder).resolve() for folder in (scratch, mixed)] == [scratch.resolve(), mixed.resolve()]
    assert language_model(tiny_run) == model_of(RunFolder(tiny_run).last_trained)


def test_an_export_of_an_ensemble_holds_its_members_and_their_parts_and_no_other_model(mixed: Path) -> None:
    models = sorted(folder.name for folder in (mixed / "collaborative").iterdir())
    assert models == ["ease", "ease-recent", "markov", "markov-ease"]
    assert not list(mixed.rglob("made.json"))


def test_a_part_of_a_member_that_was_changed_is_not_shared(mixed_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mixed_run, tmp_path / "run"))
    weights = copy / "collaborative" / "ease" / "weights.npy"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(RunError, match=r"weights\.npy was changed"):
        export(copy, tmp_path / "new")
