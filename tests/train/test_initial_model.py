"""A nano whose rows of item tokens start from the vectors that were quantized, through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jobs import job_of

from llmrec.indexing.catalogue import Catalogue
from llmrec.model.embeddings import principal
from llmrec.model.vocabulary import new_token_ids
from llmrec.recipe import Recipe
from llmrec.run.execute import run
from llmrec.train.initial_model import build_model, quantized_vectors


def test_with_a_token_for_each_item_rows_lie_as_the_fused_vectors_do(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "data": {"source": "synthetic", "synthetic": {"users": 60, "items": 40, "groups": 4, "events": 8}},
            "items": {"encoder": "hashing"},
            "indexing": {"method": "item", "fusion": "weighted", "collaborative_model": "ppmi"},
            "tasks": {"item_to_text": 0.0, "text_to_item": 0.0, "templates": 1},
            "model": {"vocabulary": 400, "width": 64, "heads": 2, "layers": 1, "init_tokens": "vectors"},
        }
    )
    run(recipe, tmp_path, "tasks")
    catalogue = Catalogue.load(tmp_path / "catalogue")
    job = job_of(recipe, tmp_path, tmp_path / "work")
    model, tokenizer = build_model(job, catalogue)
    again, _ = build_model(job, catalogue)
    rows = model.get_input_embeddings().weight.detach()
    assert torch.equal(rows, again.get_input_embeddings().weight)
    mine = rows[torch.from_numpy(new_token_ids(tokenizer, catalogue.tokens)[catalogue.codes[:, 0]])]
    vectors = torch.from_numpy(quantized_vectors(tmp_path / "items", tmp_path / "catalogue"))
    assert vectors.shape[0] == 40 and vectors.shape[1] > 64, "text and behaviour side by side"
    truth = principal(vectors, 64)
    alike = torch.corrcoef(torch.stack([torch.pdist(mine), torch.pdist(truth)]))[0, 1]
    assert alike > 0.9999
    np.testing.assert_allclose(torch.pdist(truth), torch.pdist(vectors), rtol=1e-3)  # 40 items span 39 axes
