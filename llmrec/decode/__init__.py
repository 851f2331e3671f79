"""Constrained decoding: the item trie, and beam search, sampling and exact scoring over it."""
