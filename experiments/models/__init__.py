"""Pretrained models with plain linear layers, and how they are loaded and run."""
