"""Evaluation: ranking over the whole catalogue with baselines, choice tasks, and generated text."""
