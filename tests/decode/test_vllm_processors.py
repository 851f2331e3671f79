"""The item processors against vLLM's two interfaces, batches made by hand; the V2 runner itself needs a GPU."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'llmrec[serve]', or [serve-cpu] without a GPU")

from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

from llmrec.decode import vllm_processor_v1, vllm_processor_v2
from llmrec.decode.vllm_engine import PROCESSORS
from llmrec.decode.vllm_request import CATALOGUE_VARIABLE, ProcessorContext
from llmrec.errors import ModelError
from llmrec.files import read_json, write_json
from llmrec.indexing.catalogue import Catalogue

SLOTS = 4


@pytest.fixture
def config(tiny_run, monkeypatch):
    monkeypatch.setenv(CATALOGUE_VARIABLE, str(tiny_run / "catalogue"))
    folder = str(tiny_run / "train-1-sft" / "model")
    return SimpleNamespace(
        model_config=SimpleNamespace(model=folder, tokenizer=folder, max_model_len=32), speculative_config=None
    )


@pytest.fixture
def catalogue(tiny_run):
    return Catalogue.load(tiny_run / "catalogue")


def asking(**args):
    options = {"max_tokens": args.pop("max_tokens")} if "max_tokens" in args else {}
    return SamplingParams(extra_args={"items": "item", **args}, **options)


def following(processor, catalogue, answer, deny=()):
    """Tokens that may follow an answer of item tokens, by going over all codes."""
    items = [i for i, item_id in enumerate(catalogue.item_ids) if item_id not in deny]
    codes = [processor.context.default.tokens[catalogue.codes[item]].tolist() for item in items]
    after = {code[len(answer)] for code in codes if code[: len(answer)] == answer and len(code) > len(answer)}
    return after or {processor.context.default.end_token}


def words_of(config):
    """Ids that the tokenizer has; the model has more, which only pad its embedding."""
    return set(AutoTokenizer.from_pretrained(config.model_config.tokenizer).get_vocab().values())


def finite(row):
    return set(torch.isfinite(row).nonzero().ravel().tolist())


def logits(rows=SLOTS):
    return torch.zeros(rows, 448)


def test_v1_follows_rows_that_are_added_moved_swapped_and_removed(config, catalogue):
    processor = vllm_processor_v1.ItemProcessorV1(config, torch.device("cpu"), False)
    first = processor.context.default.tokens[catalogue.codes[5]].tolist()
    outputs, deny = [[], [], []], ("i5", "i6", "i7")
    added = [(0, asking(), [9, 9], outputs[0]), (1, SamplingParams(), [9], outputs[1])]
    added += [(2, asking(deny=list(deny), answer_start=2), [9, 9, *first[:2]], outputs[2])]
    processor.update_state(BatchUpdate(3, removed=[], added=added, moved=[]))
    masked = processor.apply(logits(3))
    assert finite(masked[0]) == following(processor, catalogue, [])
    assert len(finite(masked[1])) == 448
    assert finite(masked[2]) == following(processor, catalogue, first[:2], deny)
    outputs[0] += first  # vLLM appends to its own list
    processor.update_state(BatchUpdate(3, [], [], [(0, 2, MoveDirectionality.SWAP)]))
    masked = processor.apply(logits(3))
    assert finite(masked[2]) == {processor.context.default.end_token}
    assert finite(masked[0]) == following(processor, catalogue, first[:2], deny)
    processor.update_state(BatchUpdate(2, [0], [], [(2, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    outputs[0][1:] = []  # a recycled or resumed row: only its tokens count
    masked = processor.apply(logits(2))
    assert finite(masked[0]) == following(processor, catalogue, first[:1])
    processor.update_state(BatchUpdate(1, [0], [], []))
    assert len(finite(processor.apply(logits(1))[0])) == 448
    assert not processor.is_argmax_invariant()


def test_v1_serves_lists_chats_items_and_plain_requests_in_one_batch(config, catalogue):
    processor = vllm_processor_v1.ItemProcessorV1(config, torch.device("cpu"), False)
    reader, first = processor.context.default, processor.context.default.tokens[catalogue.codes[5]].tolist()
    words = words_of(config) - set(reader.tokens.tolist())
    modes, outputs = (
        ["items", "chat", "item", "chat"],
        [list(first), [9, 9], [], [9] * 40 + [reader.mention_token, first[0]]],
    )
    rows = zip(range(4), modes, outputs, strict=True)
    added = [(row, asking(items=mode, max_tokens=20 + 40 * (row == 3)), [9, 9], out) for row, mode, out in rows]
    processor.update_state(BatchUpdate(4, removed=[], added=[*added, (4, SamplingParams(), [9], [])], moved=[]))
    masked = processor.apply(logits(5))
    assert finite(masked[0]) == {reader.end_token, reader.separator[0]}
    assert finite(masked[1]) == words
    assert finite(masked[2]) == following(processor, catalogue, [])
    assert finite(masked[3]) == following(processor, catalogue, first[:1])
    assert len(finite(masked[4])) == 448
    outputs[1] += [9] * 16  # two tokens are left, so a mention would be cut short
    assert finite(processor.apply(logits(5))[1]) == words - {reader.mention_token}


def test_an_answer_that_begins_no_item_is_ended_and_logged(config, caplog):
    processor = vllm_processor_v1.ItemProcessorV1(config, torch.device("cpu"), False)
    processor.update_state(BatchUpdate(1, [], [(0, asking(), [9], [9])], []))
    with caplog.at_level("WARNING", "vllm.llmrec"):
        assert finite(processor.apply(logits(1))[0]) == {processor.context.default.end_token}
    assert "begin no allowed item" in caplog.text and "first is [9]" in caplog.text


def states(tokens, prompt_lengths):
    """The runner's buffers, with tensors where vLLM has tensors behind `.gpu` and `.np`."""
    table = torch.zeros(SLOTS, 32, dtype=torch.int32)
    for slot, row in tokens.items():
        table[slot, : len(row)] = torch.tensor(row)
    lengths = np.zeros(SLOTS, np.int32)
    lengths[list(prompt_lengths)] = list(prompt_lengths.values())
    held = SimpleNamespace(gpu=table)
    return LogitsProcRequestState(
        device=torch.device("cpu"),
        max_num_reqs=SLOTS,
        vocab_size=448,
        all_token_ids=held,
        prompt_len=SimpleNamespace(np=lengths),
        prefill_len=SimpleNamespace(np=lengths),
        total_len=SimpleNamespace(gpu=None),
    )


def context(slots, lengths):
    """A step in which the request in each slot has so many tokens."""
    mapping, rows = torch.tensor(slots), torch.arange(len(slots))
    last = torch.tensor(lengths) - 1
    return LogitsContext(mapping, mapping, mapping.numpy(), rows * 0, rows * 0, last, np.array(lengths))


def test_v2_masks_by_slot_whatever_the_order_of_rows(config, catalogue):
    tokens = ProcessorContext(config).default.tokens
    first = tokens[catalogue.codes[5]].tolist()
    held = states({3: [9, 9, *first], 0: [9, *first[:1]], 2: [9, 9, 9]}, {3: 2, 0: 2, 2: 3})
    processor = vllm_processor_v2.ItemProcessorV2(config, held)
    assert processor.add_request(3, asking(deny=["i6"]))
    assert processor.add_request(0, asking(answer_start=1))
    assert not processor.add_request(2, SamplingParams())
    masked = processor.apply(logits(3), context([0, 2, 3], [2, 3, 3]))
    assert finite(masked[0]) == following(processor, catalogue, first[:1])
    assert len(finite(masked[1])) == 448
    assert finite(masked[2]) == following(
        processor, catalogue, first[:1], ["i6"]
    )  # tokens past its length are not read
    masked = processor.apply(logits(3), context([3, 0, 2], [5, 2, 3]))
    assert finite(masked[0]) == {processor.context.default.end_token}
    assert finite(masked[1]) == following(processor, catalogue, first[:1])


def test_v2_serves_lists_chats_items_and_plain_requests_in_one_batch(config, catalogue):
    reader = ProcessorContext(config).default
    first, words = reader.tokens[catalogue.codes[5]].tolist(), words_of(config) - set(reader.tokens.tolist())
    held = states(
        {0: [9, 9, *first], 1: [9, 9, 9], 2: [9] * 12 + [reader.mention_token, first[0]], 3: [9]},
        dict.fromkeys(range(4), 2),
    )
    processor = vllm_processor_v2.ItemProcessorV2(config, held)
    processor.add_request(0, asking(items="items", max_tokens=20))
    processor.add_request(1, asking(items="chat", max_tokens=4))
    processor.add_request(2, asking(items="chat"))
    processor.add_request(3, SamplingParams())
    masked = processor.apply(logits(4), context([2, 0, 3, 1], [14, 2 + len(first), 1, 3]))
    assert finite(masked[0]) == following(processor, catalogue, first[:1])
    assert finite(masked[1]) == {reader.end_token, reader.separator[0]}
    assert len(finite(masked[2])) == 448
    assert finite(masked[3]) == words - {reader.mention_token}  # three tokens are left


def test_v2_forgets_a_slot_s_last_request(config, catalogue):
    processor = vllm_processor_v2.ItemProcessorV2(config, states({1: [9, 9]}, {1: 2}))
    processor.add_request(1, asking(deny=["i1"], answer_start=9))
    assert finite(processor.apply(logits(1), context([1], [2]))[0]) == {
        processor.context.default.end_token
    }  # begins past the prompt
    processor.add_request(1, asking())
    assert finite(processor.apply(logits(1), context([1], [2]))[0]) == following(processor, catalogue, [])
    processor.add_request(1, SamplingParams())
    assert len(finite(processor.apply(logits(1), context([1], [2]))[0])) == 448


def test_vllm_loads_each_by_its_name_and_refuses_bad_parameters(config):
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters as check_v1
    from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors_params_validator as build_v2

    check_v2 = build_v2([PROCESSORS[2]])
    for check in (lambda params: check_v1([PROCESSORS[1]], params), check_v2):
        check(asking(deny=["i1"]))
        with pytest.raises(VLLMValidationError, match="catalogue lacks"):
            check(asking(deny=["nobody"]))


def test_a_model_of_another_catalogue_is_refused_at_start(config, tmp_path):
    config.speculative_config = object()
    with pytest.raises(ModelError, match="without speculative decoding"):
        vllm_processor_v1.ItemProcessorV1(config, torch.device("cpu"), False)
    note = read_json(Path(config.model_config.model) / "llmrec.json")
    config.model_config.model = str(tmp_path)
    with pytest.raises(ModelError, match="not a model folder"):
        vllm_processor_v1.ItemProcessorV1(config, torch.device("cpu"), False)
    write_json(tmp_path / "llmrec.json", note | {"catalogue": "0123456789abcdef" * 4})
    with pytest.raises(ModelError, match="trained on the catalogue 0123456789ab"):
        vllm_processor_v1.ItemProcessorV1(config, torch.device("cpu"), False)
