"""Alignment: preference pairs and rewards over items, the prompt computed once for all the answers to it."""
