"""Serving: a run behind an HTTP port, on vLLM or on transformers; and recommendations for everybody, offline."""
