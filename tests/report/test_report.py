"""The page of a run: whole, self-contained, escaped, and no kinder than the figures."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_run import HOSTILE, build, dump, metrics
from renewed import renew

from llmrec.errors import RunError
from llmrec.report import write_report
from llmrec.run.layout import RunFolder

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A page taken apart: its tags must nest, ids must be one of a kind, and what links point at is kept."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return build(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the whole run that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "quickstart"))


def changed(run: Path, file: str, value: object) -> Path:
    """Write another JSON into a stage, as if the stage had been made so; returns the run."""
    dump(run / file, value)
    renew(run)
    return run


def read(run: Path) -> tuple[str, Page]:
    html = write_report(RunFolder(run)).read_text(encoding="utf-8")
    return html, Page(html)


def test_the_page_nests_and_loads_nothing_from_anywhere(whole):
    html, page = read(whole)
    assert "http:" not in html and "https:" not in html and "@import" not in html
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") == 4


def test_hostile_words_stay_words(whole):
    html, page = read(whole)
    assert "<script" not in html
    assert HOSTILE in page.text
    assert "User <u2>" in page.text
    assert "# <b>quick</b>" in page.text and "b" not in page.tags


def test_the_headline_and_the_figures_stand_on_the_page(whole):
    _, page = read(whole)
    sentence = "nano is better than popularity and Markov, does not differ significantly from EASE and is worse than"
    assert f"On HR@10, {sentence} EASE on recent items." in page.text
    assert "NDCG@10 says the same." in page.text
    for figure in (
        "0.181",
        "0.161 to 0.201",
        "0.290",
        "+0.011",
        "−0.030 to −0.001",
        "p = 0.040",
        "100\u202f000",
        "943",
    ):
        assert figure in page.text
    assert "whole catalogue" in page.text and "Unforeseen knob" in page.text
    assert "together contain 2 different items of 1\u202f682" in page.text
    assert "61 of 64 tokens used, 5.60 of 6.00 bits" in page.text and "Every item has a code of its own." in page.text
    assert "In 991 steps (9.91 epochs) the loss went from 7.00 to 3.37." in page.text
    assert "7 min 10 s in all" in page.text and "numpy2.4.6" in page.text and "method: rq-kmeans" in page.text


def test_only_a_held_out_item_that_was_recommended_is_marked(whole):
    html, page = read(whole)
    assert html.count("<mark>") == 1
    assert '<li class="hit">Alien (1979) <mark>' in html
    assert "Held out, not found: Ran (1985)" in page.text
    assert "8 earlier" in page.text


def test_a_rank_by_item_id_is_believed_over_a_twin_title(run):
    example = {
        "user_id": "u",
        "history": ["A"],
        "recommended": ["Twin", "Twin"],
        "held_out": "Twin",
        "held_out_rank": 2,
    }
    html, page = read(changed(run, "evaluate-test/examples.json", [example, example | {"held_out_rank": None}]))
    assert html.count('<li>Twin</li>\n<li class="hit">Twin <mark>') == 1
    assert page.text.count("not found: Twin") == 1


def test_the_same_files_give_the_same_page(run, whole):
    assert write_report(RunFolder(run)).read_bytes() == write_report(RunFolder(whole)).read_bytes()


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ("train", "has not been evaluated yet"),
        ("train", "No evaluation was found"),
        ("train", "no examples of recommendations"),
        ("tasks", "No training was found"),
        ("items", "no health report of its item codes"),
    ],
)
def test_a_part_that_is_not_made_yet_is_named_and_the_rest_stands(until, words, tmp_path):
    _, page = read(build(tmp_path, until=until))
    assert words in page.text
    assert "943" in page.text and "method: rq-kmeans" in page.text


def test_a_training_without_a_log_has_no_curve(run):
    (run / "train-1-sft" / "log.jsonl").unlink()
    assert "train-1-sft has no log" in read(run)[1].text


@pytest.mark.parametrize("gone", ["data", "catalogue", "train-1-sft", "collaborative/popularity"])
def test_figures_without_a_stage_that_they_were_made_of_are_refused(gone, run):
    shutil.rmtree(run / gone)
    with pytest.raises(RunError, match=f"{gone} is not made"):
        write_report(RunFolder(run))


@pytest.mark.parametrize(
    "change",
    [
        "seed: 43",
        "indexing: {levels: 2}",
        "model: {layers: 1}",
        "train: [{epochs: 9}]",
        "evaluate: {baselines: [popularity], beams: 99}",
    ],
)
def test_a_run_of_another_recipe_is_refused(change, run):
    (run / "report.html").unlink(missing_ok=True)
    with (run / "recipe.yaml").open("a") as file:
        file.write(change + "\n")
    with pytest.raises(RunError, match="go back to the recipe before"):
        write_report(RunFolder(run))
    assert not (run / "report.html").exists()


def test_what_the_recipe_does_not_name_is_not_shown(run):
    for stage in ("train-2-s-dpo", "evaluate-valid"):
        shutil.copytree(run / "train-1-sft", run / stage)
    assert not {"train-2-s-dpo", "evaluate-valid"} & set(read(run)[1].text.split())


def test_a_folder_with_only_a_recipe_is_a_page_of_what_is_missing(tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    _, page = read(tmp_path)
    for words in ("No stage of this run has finished.", "no counts of its data", "No versions were recorded."):
        assert page.text.count(words) == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"recipe\.yaml"):
        write_report(RunFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []


FILES = ("evaluate-test/recommendations.parquet", "evaluate-test/metrics.json", "catalogue/codes.npy")


@pytest.mark.parametrize(("file", "noted"), [*((file, False) for file in FILES), *((file, True) for file in FILES[:2])])
def test_a_damaged_file_is_named_and_the_old_page_kept(run, file, noted):
    before = write_report(RunFolder(run)).read_bytes()
    (run / file).write_bytes(b"{torn")
    if noted:  # as if the stage itself had left it so
        renew(run)
    with pytest.raises(RunError, match=Path(file).name):
        write_report(RunFolder(run))
    assert (run / "report.html").read_bytes() == before


@pytest.mark.parametrize("file", [*FILES, "evaluate-test/examples.json", "catalogue/health.json"])
def test_a_file_that_is_missing_is_named(run, file):
    (run / file).unlink()
    with pytest.raises(RunError, match=f"{Path(file).name} is missing"):
        write_report(RunFolder(run))


def test_a_torn_last_log_line_is_passed_over_but_not_one_in_the_middle(run):
    log = run / "train-1-sft" / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 99')
    assert "In 991 steps" in read(run)[1].text
    log.write_text('{"step": 99\n' + whole)
    with pytest.raises(RunError, match="line 1"):
        write_report(RunFolder(run))


def test_the_headline_is_of_the_figures_in_the_run(run):
    later = metrics()
    later["paired"] = {"ease": {"hr@10": {"mean": 0.1, "low": 0.05, "high": 0.15, "p": 0.0004}}}
    _, page = read(changed(run, "evaluate-test/metrics.json", later))
    assert "On HR@10, nano is better than EASE." in page.text
    assert "p below 0.001" in page.text


def test_ten_comes_after_nine_and_a_dollar_is_no_mathematics(tmp_path):
    strange = json.loads(json.dumps(metrics()).replace('"nano"', '"$\\\\frac$ <b>"'))
    run = build(tmp_path, trainings=10)
    _, page = read(changed(run, "evaluate-test/metrics.json", strange | {"paired": {}}))
    assert "$\\frac$ <b> was evaluated, but not compared with a baseline" in page.text
    curves = page.text[page.text.index("How it learned") :]
    assert curves.index("train-9-sft") < curves.index("train-10-sft")
    assert "b" not in page.tags
