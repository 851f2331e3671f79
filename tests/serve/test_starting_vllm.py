"""The command that starts vLLM, and what its processes find in their environment; vLLM itself is not needed."""

import importlib.metadata
import os

import pytest

from llmrec.cli.serve import _parallel
from llmrec.decode import catalogue_registry
from llmrec.serve.settings import NAME, SETTINGS_VARIABLE, Settings, _options, _plugins


def test_options_are_vllm_s_own_flags():
    given = {"max_logprobs": 73, "enable_prefix_caching": True, "lazy": False, "logits_processors": ["a:B", "c:D"]}
    assert _options(given) == ["--max-logprobs", "73", "--enable-prefix-caching", "--logits-processors", "a:B", "c:D"]


def test_parallel_options_are_vllm_s_own_flags():
    assert _parallel(1, 1, 1) == []
    sizes = ["--tensor-parallel-size", "4", "--pipeline-parallel-size", "2", "--data-parallel-size", "3"]
    assert _parallel(4, 2, 3) == sizes


def test_our_plugin_shuts_no_other_out(monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "theirs")
    assert _plugins() == f"theirs,{NAME}"
    monkeypatch.delenv("VLLM_PLUGINS")
    others = {one.name for group in ("platform", "general") for one in _entry_points(f"vllm.{group}_plugins")}
    assert {*others, NAME} <= set(_plugins().split(","))


def _entry_points(group):
    return importlib.metadata.entry_points(group=group)


def test_settings_travel_by_the_environment_and_keys_do_not(served, tmp_path, monkeypatch):
    settings = Settings(run=served.run, catalogues=[tmp_path], state=tmp_path / "state")
    environment = settings.environment()
    assert os.environ.get("LLMREC_API_KEY", "no key") not in str(environment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment() == settings
    assert set(catalogue_registry.scan(catalogue_registry.roots()).known) == {
        served.first,
        served.second,
        served.foreign,
    }
    monkeypatch.delenv(SETTINGS_VARIABLE)
    with pytest.raises(Exception, match="llmrec serve RUN"):
        Settings.from_environment()
