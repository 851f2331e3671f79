"""Models judged by tasks with few possible answers: letters, codes on offer, yes or no, stars."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import llmrec
from llmrec.cli.main import app
from llmrec.data.dataset import Dataset
from llmrec.decode.exact import answer_scores
from llmrec.errors import ModelError, RunError
from llmrec.evaluate.files import read_choices, read_evaluation, read_metrics
from llmrec.evaluate.task_evaluator import HELD_OUT, TaskEvaluator, choice_metrics
from llmrec.export import export
from llmrec.indexing.catalogue import Catalogue
from llmrec.items import read_texts
from llmrec.metrics.predictions import auc
from llmrec.model import folder as model_folder
from llmrec.recipe import Evaluate, Recipe, Tasks
from llmrec.recipe.tasks import CHOICES
from llmrec.results import ledger
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder, model_of
from llmrec.run.plan import plan
from llmrec.tasks import templates
from llmrec.tasks.choices import ChoiceExamples, TrainStats, choice_examples, held_out_inputs
from llmrec.train.encode import encode

SETTINGS = {
    "data": {"source": "synthetic", "synthetic": {"users": 30, "items": 30, "events": 8}},
    "items": {"encoder": "hashing"},
    "indexing": {"levels": 2, "width": 8},
    "tasks": {"mixture": "judge", "options": 4, "history": 6},
    "model": {"base": "nano", "width": 32, "layers": 1, "heads": 1, "vocabulary": 400, "dropout": 0.0},
    "train": [{"method": "sft", "epochs": 0.5, "batch": 16, "learning_rate": 5e-3}],
    "evaluate": {"ranking": ["hr@5"], "beams": 5, "baselines": ["popularity"], "generation_cases": 12},
}
P5 = {"mixture": "p5", "candidates": 5, "history": 6, "max_examples": {"rating": 40, "explanation": 5}}


def _recipe(**parts: dict) -> Recipe:
    return Recipe.model_validate(SETTINGS | parts)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose tasks recommend nothing. Tests must not change it."""
    return RunFolder(run(_recipe(), tmp_path_factory.mktemp("judge") / "run"))


@pytest.fixture(scope="module")
def p5(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with tasks that recommend and tasks that judge. Tests must not change it."""
    return RunFolder(run(_recipe(tasks=P5), tmp_path_factory.mktemp("p5") / "run"))


def _opened(folder: RunFolder) -> SimpleNamespace:
    dataset, catalogue = Dataset.load(folder.data), Catalogue.load(folder.catalogue)
    model, tokenizer, _ = model_folder.load(model_of(folder.last_trained), torch.float32)
    texts = read_texts(folder.items, dataset.n_items)
    return SimpleNamespace(model=model, tokenizer=tokenizer, data=(dataset, catalogue, texts))


def _brute_force(opened: SimpleNamespace, row: dict, answers: list[str], window: int = 1 << 20) -> np.ndarray:
    """Normalised log-probabilities, by a forward pass over each answer as training tokenizes it."""
    found = []
    for answer in answers:
        table = pa.Table.from_pylist([row | {"answer": answer}], schema=row["schema"])
        tokens = next(iter(encode(table.to_batches(), opened.tokenizer, window))).tokens
        with torch.no_grad():
            logits = opened.model(torch.from_numpy(tokens)[None].to(opened.model.device)).logits[0].double().cpu()
        steps = logits.log_softmax(-1)[:-1].gather(1, torch.from_numpy(tokens)[1:, None])
        found.append(float(steps.sum()))  # the prompt's own probability is the same in all
    scores = np.array(found)
    return scores - np.logaddexp.reduce(scores)


@pytest.mark.parametrize("wording", ["held-out", "trained"])
@pytest.mark.parametrize("task", CHOICES)
def test_each_judge_equals_brute_force_over_logits(p5: RunFolder, task: str, wording: str) -> None:
    opened, tasks = _opened(p5), Tasks.model_validate(P5 | {"options": 4, "templates": 3})
    torch.manual_seed(0)
    for weights in opened.model.parameters():  # as trained, yes and no are nearly alike
        torch.nn.init.normal_(weights, std=0.3)
    source = held_out_inputs(*opened.data, "test", 5, 0)
    found = choice_examples(task, source, TrainStats.of(opened.data[0]), tasks, wording, 0)
    rows = found.rows.to_pylist()
    assert len(rows) == 5
    scores = answer_scores(opened.model, opened.tokenizer, rows, found.answers)
    for row, possible, score in zip(rows, found.answers, scores, strict=True):
        truth = _brute_force(opened, row | {"schema": found.rows.schema}, possible)
        assert len(set(truth.round(6))) == len(possible) == {"pairwise": 2, "rerank": 4}.get(task, len(possible)) > 1
        np.testing.assert_allclose(score, truth, atol=2e-4)


def test_a_prompt_beyond_the_window_loses_old_items_as_in_training(judge: RunFolder) -> None:
    opened, tasks = _opened(judge), Tasks.model_validate({"mixture": "judge", "options": 4, "history": 6})
    found = choice_examples(
        "rerank", held_out_inputs(*opened.data, "test", 3, 0), TrainStats.of(opened.data[0]), tasks, "held-out", 0
    )
    rows, batches = found.rows.to_pylist(), found.rows.to_batches()
    window = max(len(one.tokens) for block in encode(batches, opened.tokenizer, 1 << 20) for one in block) - 3
    opened.model.config.max_position_embeddings = window
    for row, possible, score in zip(
        rows, found.answers, answer_scores(opened.model, opened.tokenizer, rows, found.answers), strict=True
    ):
        truth = _brute_force(opened, row | {"schema": found.rows.schema}, possible, window)
        np.testing.assert_allclose(score, truth, atol=2e-4)
    opened.model.config.max_position_embeddings = 20
    with pytest.raises(ModelError, match=r"an example of 'rerank' has \d+ tokens but the model holds 20"):
        answer_scores(opened.model, opened.tokenizer, rows, found.answers)


def test_examples_ask_about_held_out_events_and_offer_nothing_that_the_user_had(p5: RunFolder) -> None:
    dataset, catalogue, texts = _opened(p5).data
    cases = dataset.cases("test")
    target = dict(zip(cases.users, cases.targets, strict=True))
    had = {dataset.user_ids[u]: {dataset.item_ids[i] for i in h} for u, h in enumerate(dataset.before("test"))}
    right = {dataset.user_ids[user]: dataset.item_ids[item] for user, item in target.items()}
    source, known = held_out_inputs(dataset, catalogue, texts, "test", 100, 0), TrainStats.of(dataset)
    tasks = Tasks.model_validate(P5 | {"options": 4, "negatives": "popularity"})
    for task in CHOICES:
        found = choice_examples(task, source, known, tasks, "held-out", 0)
        begins = templates.load(task).held_out[0].prompt.split("{")[0]
        assert len(found.rows) == len(right)
        for row, place in zip(found.rows.to_pylist(), found.target.tolist(), strict=True):
            user = row["user_id"]
            assert row["prompt"].startswith(begins)
            if row["candidates"]:
                assert row["candidates"][place] == right[user]
                assert len(set(row["candidates"])) == {"rerank": 4, "pairwise": 2, "direct_pick": 5}[task]
                assert not set(row["candidates"]) & (had[user] - {right[user]})
            elif task == "rating":
                assert row["item_id"] == right[user] and float(found.values[0][place]) == row["label"]
            else:
                assert (row["item_id"] == right[user]) == bool(place) and (place or row["item_id"] not in had[user])


def _examples(slot: str, right: list[int], pieces: list[str], labels: list[float] | None = None) -> ChoiceExamples:
    rows = pa.table({"label": pa.array(labels or right, pa.float32())})
    return ChoiceExamples(rows, slot, [pieces] * len(right), [pieces] * len(right), np.array(right))


def test_figures_of_candidates_equal_those_by_hand() -> None:
    scores = [np.log([0.5, 0.3, 0.2]), np.log([0.2, 0.3, 0.5]), np.log([0.4, 0.2, 0.4])]
    found = choice_metrics(_examples("letter", [0, 0, 2], ["A", "B", "C"]), scores, np.zeros(0), 0)
    # places 1, 3, and 1 or 2 with equal chance
    half = 1 / math.log2(3)
    assert found["model"]["hr@1"].mean == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["model"]["ndcg@5"].mean == pytest.approx((1 + 0.5 + (1 + half) / 2) / 3)
    assert found["model"]["mrr"].mean == pytest.approx((1 + 1 / 3 + 0.75) / 3)
    assert found["random choice"]["hr@1"].mean == pytest.approx(1 / 3)
    assert found["random choice"]["ndcg@5"].mean == pytest.approx((1 + half + 0.5) / 3)
    assert found["random choice"]["mrr"].mean == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["model"]["hr@1"].low <= found["model"]["hr@1"].mean <= found["model"]["hr@1"].high


def test_figures_of_verdicts_equal_those_by_hand() -> None:
    scores = [np.log([0.1, 0.9]), np.log([0.6, 0.4]), np.log([0.3, 0.7])]  # no, yes
    found = choice_metrics(_examples("verdict", [1, 1, 0], ["no", "yes"]), scores, np.zeros(0), 0)
    assert found["model"]["auc"].mean == 0.5  # 0.9 above 0.7, 0.4 below
    assert found["model"]["accuracy"].mean == pytest.approx(1 / 3)
    assert found["model"]["log-loss"].mean == pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.3)) / 3)
    chance = {name: value.mean for name, value in found["random choice"].items()}
    assert chance == pytest.approx({"auc": 0.5, "accuracy": 0.5, "log-loss": math.log(2)})
    assert "auc" not in choice_metrics(_examples("verdict", [1, 1, 1], ["no", "yes"]), scores, np.zeros(0), 0)["model"]


def test_figures_of_ratings_equal_those_by_hand() -> None:
    scores = [np.log([0.5, 0.25, 0.25]), np.log([0.0625, 0.9, 0.0375]), np.log([0.1, 0.2, 0.7])]
    # ratings 1, 3, and 2.5, which training does not have; expected 1.75, 1.975, 2.6
    found = choice_metrics(
        _examples("rating", [0, 2, -1], ["1", "2", "3"], [1, 3, 2.5]), scores, np.array([1.0, 2, 3, 2]), 0
    )
    errors = [0.75, -1.025, 0.1]
    assert found["model"]["rmse"].mean == pytest.approx(math.sqrt(sum(e * e for e in errors) / 3))
    assert found["model"]["mae"].mean == pytest.approx(sum(map(abs, errors)) / 3)
    assert found["model"]["accuracy"].mean == pytest.approx(1 / 3)
    assert found["mean rating"]["rmse"].mean == pytest.approx(math.sqrt((1 + 1 + 0.25) / 3))
    assert found["mean rating"]["accuracy"].mean == 0


def test_a_run_that_recommends_nothing_is_judged_by_its_tasks_alone(judge: RunFolder) -> None:
    folder = judge.evaluation("test")
    assert {path.name for path in folder.iterdir()} == {"made.json", "choices.json", "choices.parquet"}
    assert not (judge.path / "collaborative").exists()  # nothing is compared with a recommender
    judged = read_choices(folder)
    assert judged and list(judged["tasks"]) == ["rerank", "pairwise", "pointwise"]
    assert judged["tasks"]["rerank"]["cases"] == 12
    assert judged["tasks"]["rerank"]["candidates"] == "4 items behind letters"
    assert judged["tasks"]["pointwise"]["candidates"] == "no or yes"
    assert judged["tasks"]["pairwise"]["systems"]["random choice"]["hr@1"]["mean"] == 0.5
    assert judged["protocol"]["template"] == "trained"
    assert HELD_OUT in judged["tasks"]["rerank"]["systems"]
    rows = [row for row in pq.read_table(folder / "choices.parquet").to_pylist() if row["task"] == "pointwise"]
    yes = np.array([row["log-probabilities"][1] for row in rows])
    liked = np.array([row["answer"] == " yes" for row in rows])
    assert judged["tasks"]["pointwise"]["systems"]["model"]["auc"]["mean"] == pytest.approx(auc(yes, liked))


def test_a_run_that_recommends_nothing_refuses_to_recommend_in_words(judge: RunFolder, tmp_path: Path) -> None:
    says = "was trained to judge candidates"
    with pytest.raises(RunError, match=f"{says} .rerank, pairwise, pointwise., not to recommend"):
        llmrec.load(judge.path)
    with pytest.raises(RunError, match=says):
        export(judge.path, tmp_path / "export")
    with pytest.raises(RunError, match=f"no figures over the whole catalogue.*{says}"):
        read_metrics(judge.evaluation("test"))
    from llmrec.decode.generative import GenerativeModel, transformers_engine_factory

    with pytest.raises(ModelError, match=says):
        GenerativeModel(model_of(judge.last_trained), transformers_engine_factory(model_of(judge.last_trained)))
    for verb in (
        ["recommend", str(judge.path), "--history", "1"],
        ["serve", str(judge.path), "--engine", "transformers"],
        ["compare", *[str(judge.path)] * 2],
    ):
        result = CliRunner().invoke(app, verb)
        assert result.exit_code and says in " ".join((result.output + str(result.exception)).split()), verb


def test_commands_and_the_report_show_a_table_of_its_own(judge: RunFolder, p5: RunFolder) -> None:
    from llmrec.report import write_report

    shown = (
        CliRunner().invoke(app, ["evaluate", str(judge.path)], env={"COLUMNS": "160"}, catch_exceptions=False).output
    )
    assert "not the whole catalogue" in shown and "random choice" in shown and "rerank" in shown
    page = write_report(judge).read_text()
    assert "How well it judges candidates" in page and "How good it is" not in page and "not to recommend" in page
    page = write_report(p5).read_text()
    assert "How well it judges candidates" in page and "How good it is" in page


def test_a_mixture_of_both_has_both_in_separate_files(p5: RunFolder) -> None:
    folder = p5.evaluation("test")
    metrics, judged = read_metrics(folder), read_choices(folder)
    assert judged and set(judged["tasks"]) == {"direct_pick", "direct_yes_no", "rating"}
    assert not set(metrics["systems"]) & {"direct_pick", "rating", "random choice"}
    assert read_evaluation(folder) == metrics | {"choices": judged}
    assert set(judged["tasks"]["rating"]["systems"]) == {"model", HELD_OUT, "mean rating"}
    assert judged["tasks"]["direct_pick"]["candidates"] == "5 items by their codes"
    assert "random choice" in judged["tasks"]["direct_yes_no"]["systems"]


def test_the_same_seed_gives_the_same_files(judge: RunFolder, tmp_path: Path) -> None:
    opened, recipe = _opened(judge), _recipe()
    evaluator = TaskEvaluator(opened.model, opened.tokenizer, recipe.tasks, recipe.evaluate, recipe.seed, tmp_path)
    evaluator.choices(*opened.data)
    assert (tmp_path / "choices.json").read_bytes() == (judge.evaluation("test") / "choices.json").read_bytes()


@pytest.mark.parametrize(
    ("tasks", "evaluate", "same"),
    [
        ({"options": 5}, {}, False),
        ({"negatives": "popularity"}, {}, False),
        ({"pairwise": 0.0}, {}, False),
        ({"pairwise": 0.5}, {}, True),
        ({}, {"generation_cases": 5}, False),
        ({}, {"beams": 7}, True),
        ({}, {"baselines": []}, True),
    ],
)
def test_the_key_of_an_evaluation_holds_what_judging_reads(tasks: dict, evaluate: dict, same: bool) -> None:
    changed = _recipe(tasks=SETTINGS["tasks"] | tasks, evaluate=SETTINGS["evaluate"] | evaluate)
    assert (plan(changed, "test")[-1].config == plan(_recipe(), "test")[-1].config) is same


def test_ratings_that_the_data_lack_leave_no_cases(judge: RunFolder) -> None:
    opened = _opened(judge)
    bare = Dataset(opened.data[0].interactions.drop_columns(["rating"]), opened.data[0].items)
    source = held_out_inputs(bare, *opened.data[1:], "test", 5, 0)
    found = choice_examples("rating", source, TrainStats.of(bare), Tasks.model_validate(P5), Evaluate().template, 0)
    assert len(found.rows) == 0 and found.answers == []


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ([{"method": "sft", "validation": {"every": 5}}], "train.0.validation needs recommendations"),
        ([{"method": "sft"}, {"method": "s-dpo"}], "train.1 needs recommendations"),
    ],
)
def test_stages_that_need_recommendations_are_refused_before_anything_is_made(
    train: list[dict], names: str, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=names):
        run(_recipe(train=train), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_look_at_the_test_part_of_a_judge_is_written_into_the_ledger(judge: RunFolder, tmp_path: Path) -> None:
    book = tmp_path / "ledger.jsonl"
    arguments = ["evaluate", str(judge.path), "--test", "--ledger", str(book)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    (line,) = ledger.read(book)
    judged = read_choices(judge.evaluation("test"))
    assert judged and line["cases"] == dict.fromkeys(judged["tasks"], 12)
    assert line["metrics"]["rerank mrr"][0] == round(judged["tasks"]["rerank"]["systems"]["model"]["mrr"]["mean"], 6)


@pytest.mark.parametrize(
    "content", [b"{", b'{"protocol": {}, "tasks": {"rerank": {"cases": 3, "candidates": "a", "systems": {}}}}']
)
def test_damaged_figures_end_in_one_message(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "choices.json").write_bytes(content)
    with pytest.raises(RunError, match=r"choices\.json"):
        read_evaluation(tmp_path)
