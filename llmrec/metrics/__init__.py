"""Metrics of recommendations and predictions, per user; bootstrap intervals and paired tests."""
