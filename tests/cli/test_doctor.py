"""The doctor sees a companion of torch that was built for another torch, and says what to type."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.cli import machine as doctor


def test_a_torchvision_built_for_another_torch_is_found_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "torchvision-9.9.dist-info").mkdir()
    (tmp_path / "torchvision-9.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 9.9\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = [finding for finding in doctor._torch() if finding.what.startswith("torchvision")]
    assert [(f.what, f.ok, f.remedy) for f in found] == [("torchvision 9.9", False, "pip uninstall -y torchvision")]
    assert "nms does not exist" in found[0].detail
