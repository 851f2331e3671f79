"""The text oracle: words that tasks need and the data lack, from a template, a cache, or a language model's server."""
