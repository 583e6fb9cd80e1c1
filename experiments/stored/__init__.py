"""What lies on disk after a run: each format with its version, read without trust.

Files name kinds (`dora`, `text`, `pretrained`) and never a module. Nothing here imports torch, so
that finished runs are read quickly.
"""
