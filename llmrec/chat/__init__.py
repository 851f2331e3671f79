"""A chat that recommends real items: it understands words, keeps a dialogue, and asks a server of `llmrec serve`."""
