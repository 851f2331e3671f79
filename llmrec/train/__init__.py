"""Training: examples to packed rows, one loss of our own, transformers' loop around it."""
