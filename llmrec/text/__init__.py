"""Text oracles and HTTP clients: texts that tasks need and the data lack, by template, cache or language model."""
