"""Methods of fine-tuning for any module of torch.

    from variants import adapt, adapter_layers, load, merge, optimizer_for, save, summary

    adapt(model, "dora", rank=8, targets="all-linear")
    print(summary(model))
    optimizer = optimizer_for(model, lr=1e-3)

`variants.base` is the contract that a method is written against, `variants.hf` is for
transformers' Trainer.
"""

from variants.base import adapter_layers
from variants.defaults import list_methods
from variants.loops import Hooks, optimizer_for
from variants.saving import learned_state, load, load_learned_state, save
from variants.summary import Summary, summary
from variants.surface import adapt, disable, merge, unload

__all__ = [
    "Hooks",
    "Summary",
    "adapt",
    "adapter_layers",
    "disable",
    "learned_state",
    "list_methods",
    "load",
    "load_learned_state",
    "merge",
    "optimizer_for",
    "save",
    "summary",
    "unload",
]
