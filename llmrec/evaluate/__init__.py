"""Evaluation protocols: whole catalogue, every held-out user, item level, baselines always beside."""
