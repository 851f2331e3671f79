"""Training: packed examples, loss, and the Trainer loop of transformers."""
