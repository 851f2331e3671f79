"""Prompts and answers: templates from `prompts/`, task families, and the Arrow data set a model learns from."""
