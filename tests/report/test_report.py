"""The page of a run: whole, self-contained, escaped, and no kinder than the figures."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_run import HOSTILE, build, dump, metrics

from llmrec.errors import RunError
from llmrec.report import write_report

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


def read(run: Path) -> tuple[str, Page]:
    html = write_report(run).read_text(encoding="utf-8")
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
    sentence = (
        "nano is better than popularity and Markov, cannot be told apart from EASE and is worse than EASE on recent"
    )
    assert f"On HR@10, {sentence} items." in page.text
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
    assert "together name 2 different items of 1\u202f682" in page.text
    assert "61 of 64 tokens used, 5.60 of 6.00 bits" in page.text and "Every item has a code of its own." in page.text
    assert "In 991 steps (9.91 epochs) the loss went from 7.00 to 3.37." in page.text
    assert "6 min 09 s in all" in page.text and "numpy2.4.6" in page.text and "method: rq-kmeans" in page.text


def test_only_a_held_out_item_that_was_recommended_is_marked(whole):
    html, page = read(whole)
    assert html.count("<mark>") == 1
    assert '<li class="hit">Alien (1979) <mark>' in html
    assert "Held out, and not found: Ran (1985)" in page.text
    assert "8 earlier" in page.text


def test_a_rank_by_item_id_is_believed_over_a_twin_title(run):
    example = {
        "user_id": "u",
        "history": ["A"],
        "recommended": ["Twin", "Twin"],
        "held_out": "Twin",
        "held_out_rank": 2,
    }
    dump(run / "train-1-sft" / "eval" / "examples.json", [example, example | {"held_out_rank": None}])
    html, page = read(run)
    assert html.count('<li>Twin</li>\n<li class="hit">Twin <mark>') == 1
    assert page.text.count("not found: Twin") == 1


def test_the_same_files_give_the_same_page(run, whole):
    assert write_report(run).read_bytes() == write_report(whole).read_bytes()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("train-1-sft/log.jsonl", "train-1-sft left no log"),
        ("train-1-sft/eval/metrics.json", "has not been evaluated yet"),
        ("train-1-sft/eval/metrics.json", "No evaluation was found"),
        ("train-1-sft/eval/examples.json", "no examples of recommendations"),
        ("train-1-sft", "No training was found"),
        ("catalogue/health.json", "no health of its item codes"),
        ("data", "no counts of its data"),
        ("recipe.yaml", "holds no recipe.yaml"),
    ],
)
def test_a_missing_part_is_named_and_the_rest_stands(run, gone, said):
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, page = read(run)
    assert said in page.text


@pytest.mark.parametrize(
    "gone", ["catalogue/codes.npy", "catalogue/items.parquet", "train-1-sft/eval/recommendations.parquet"]
)
def test_tables_that_are_missing_only_leave_out_their_lines(run, gone):
    (run / gone).unlink()
    _, page = read(run)
    assert "How good it is" in page.text and "61 of 64 tokens used" in page.text


def test_a_folder_with_only_a_recipe_is_a_page_of_what_is_missing(tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    _, page = read(tmp_path)
    assert page.text.count("No stage of this run has finished.") == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"recipe\.yaml"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["train-1-sft/eval/recommendations.parquet", "train-1-sft/eval/metrics.json"])
def test_a_damaged_file_is_named_and_the_old_page_kept(run, file):
    before = write_report(run).read_bytes()
    (run / file).write_bytes(b"{torn")
    with pytest.raises(RunError, match=Path(file).name):
        write_report(run)
    assert (run / "report.html").read_bytes() == before


def test_a_torn_last_log_line_is_passed_over_but_not_one_in_the_middle(run):
    log = run / "train-1-sft" / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 99')
    assert "In 991 steps" in read(run)[1].text
    log.write_text('{"step": 99\n' + whole)
    with pytest.raises(RunError, match="line 1"):
        write_report(run)


def test_the_last_evaluated_stage_is_spoken_of_and_earlier_ones_stand_beside_it(run):
    later = metrics()
    later["paired"] = {"ease": {"hr@10": {"mean": 0.1, "low": 0.05, "high": 0.15, "p": 0.0004}}}
    dump(run / "train-2-s-dpo" / "eval" / "metrics.json", later)
    _, page = read(run)
    assert "On HR@10, nano is better than EASE." in page.text
    assert "nano after train-1-sft" in page.text
    assert "p below 0.001" in page.text


def test_figures_of_another_protocol_never_stand_in_the_same_table(run):
    other = metrics()["protocol"] | {"users": 500}
    dump(run / "train-2-s-dpo" / "eval" / "metrics.json", metrics() | {"protocol": other})
    assert "nano after train-1-sft" not in read(run)[1].text


def test_ten_comes_after_nine_and_a_dollar_is_no_mathematics(run):
    strange = json.loads(json.dumps(metrics()).replace('"nano"', '"$\\\\frac$ <b>"'))
    for number in (9, 10):
        dump(run / f"train-{number}-sft" / "eval" / "metrics.json", strange | {"paired": {}})
    _, page = read(run)
    assert "$\\frac$ <b> was measured, but compared with no baseline" in page.text
    assert "after train-9-sft" in page.text and "after train-10-sft" not in page.text
    assert "b" not in page.tags
