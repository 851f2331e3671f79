"""Language models: the nano model from scratch, pretrained bases, new vocabulary, adapters, merging."""
