"""The formats of stored files: each has its version, and is read without trust.

Files name kinds (`dora`, `text`, `pretrained`) and never a module. Nothing here imports torch, so
that finished runs are read quickly.
"""
