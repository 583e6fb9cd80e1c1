"""Families of pretrained models: one file each, found by `model_type`; `auto` serves all others."""
