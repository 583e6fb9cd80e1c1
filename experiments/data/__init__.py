"""Rows of files as splits, and splits as batches."""
