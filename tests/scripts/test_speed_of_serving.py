"""The speed of serving, measured at a size that proves the path."""

import pytest

from llmrec.errors import RunError
from llmrec.files import read_json
from serve import BATCH, Size, measure
from serve_server import serving


def test_every_contender_is_measured_and_compared(tiny_run, tmp_path):
    path = measure(tiny_run, "transformers", tmp_path, Size((1, BATCH), 0.3, 2, 0.1), "auto")
    figures = read_json(path)["figures"]
    for clients in ("1", str(BATCH)):
        mine = figures[clients]["recommendations"]
        assert set(mine["statuses"]) == {"200"} and mine["requests"] >= 2
        assert mine["p50_ms"] <= mine["p95_ms"] <= mine["p99_ms"]
    whole = figures[str(BATCH)]
    assert whole["offline"]["requests"] % BATCH == 0
    assert whole["of offline"]["least"] <= whole["of offline"]["median"] <= whole["of offline"]["most"]
    assert figures["invalid items"] == 0


def test_a_server_that_does_not_come_up_is_said_with_its_log(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(RunError, match="Invalid value"), serving(tmp_path, log, "transformers", "--max-k", "0"):
        pass
