"""Interactions and items: read, cleaned, ordered, split. One folder of Parquet files that every later stage reads."""
