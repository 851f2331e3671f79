"""Metrics of recommendations and predictions: figures per user first, then means with intervals, paired differences."""
