"""Requests of two catalogues in one batch of vLLM's, by both of its interfaces."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'llmrec[serve]', or [serve-cpu] without a GPU")

from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

from llmrec.decode import vllm_processor_v1, vllm_processor_v2
from llmrec.decode.vllm_request import ProcessorContext
from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.settings import Settings


@pytest.fixture
def config(served, monkeypatch):
    for name, value in Settings(run=served.run).environment().items():
        monkeypatch.setenv(name, value)
    folder = str(served.run / "train-1-sft" / "model")
    return SimpleNamespace(
        model_config=SimpleNamespace(model=folder, tokenizer=folder, max_model_len=32), speculative_config=None
    )


def asking(**args):
    return SamplingParams(extra_args={"items": "item", **args})


def leaves(catalogue, tokens, begun):
    """Tokens that end a code of a catalogue which begins so."""
    codes = [tokens[code].tolist() for code in catalogue.codes]
    return {code[-1] for code in codes if code[:-1] == begun}


def finite(row):
    return set(torch.isfinite(row).nonzero().ravel().tolist())


@pytest.fixture
def scene(served, config):
    """The catalogues, the tokens, and a beginning under which the second has one item more."""
    first, second = (Catalogue.load(served.run / part) for part in ("catalogue", "catalogues/spring"))
    tokens = ProcessorContext(config).default.tokens
    return first, second, tokens, tokens[second.codes[-1]].tolist()[:-1]


def test_v1_masks_each_row_by_its_own_catalogue(served, config, scene):
    first, second, tokens, begun = scene
    processor = vllm_processor_v1.ItemProcessorV1(config, torch.device("cpu"), False)
    asked = [asking(), asking(catalogue=served.second), asking(catalogue=served.first), asking(catalogue="0" * 64)]
    added = [(row, one, [9], list(begun)) for row, one in enumerate(asked)]
    processor.update_state(BatchUpdate(4, removed=[], added=added, moved=[]))
    masked = processor.apply(torch.zeros(4, 448))
    assert finite(masked[0]) == finite(masked[2]) == leaves(first, tokens, begun)
    assert finite(masked[1]) == leaves(second, tokens, begun) != finite(masked[0])
    assert finite(masked[3]) == {processor.context.default.end_token}  # taken off the shelf since it was admitted


def test_v2_masks_each_row_by_its_own_catalogue(served, config, scene):
    first, second, tokens, begun = scene
    table = torch.zeros(2, 32, dtype=torch.int32)
    table[:, : 1 + len(begun)] = torch.tensor([9, *begun])
    lengths = SimpleNamespace(np=np.ones(2, np.int32))
    states = LogitsProcRequestState(
        device=torch.device("cpu"),
        max_num_reqs=2,
        vocab_size=448,
        all_token_ids=SimpleNamespace(gpu=table),
        prompt_len=lengths,
        prefill_len=lengths,
        total_len=SimpleNamespace(gpu=None),
    )
    processor = vllm_processor_v2.ItemProcessorV2(config, states)
    processor.add_request(0, asking())
    processor.add_request(1, asking(catalogue=served.second))
    mapping, length = torch.tensor([1, 0]), torch.tensor([1 + len(begun)] * 2)
    rows, known = torch.arange(2) * 0, length.numpy()
    context = LogitsContext(mapping, mapping, mapping.numpy(), rows, rows, length - 1, known)
    masked = processor.apply(torch.zeros(2, 448), context)
    assert finite(masked[0]) == leaves(second, tokens, begun)
    assert finite(masked[1]) == leaves(first, tokens, begun) != finite(masked[0])
