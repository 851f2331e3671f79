"""Serving: a run behind an HTTP port, on vLLM or on transformers; and batch inference for all users."""
