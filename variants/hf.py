"""Adapted models under transformers' Trainer: every hook at its place, and checkpoints of adapters.

    from variants import adapt
    from variants.hf import VariantTrainer

    adapt(model, "adalora", rank=8, target_rank=4)
    VariantTrainer(model=model, args=args, train_dataset=data).train()

`VariantMixin` does the same for a trainer derived from it: `class Own(VariantMixin, SFTTrainer)`.
A checkpoint, and what `save_model` writes, is a folder that `variants.load` reads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainerCallback

from variants.base import Probe, Variant, adapter_layers
from variants.gradients import gradients_at_W0, keep_from_clipping, serve_groups
from variants.loops import Hooks, add_gradient, make_groups
from variants.loops import optimizer_for as optimizer_for
from variants.saving import hash_base, load, save
from variants.state import collect_books, copy_exactly, evaluation_mode
from variants.surface import find_adaptation

BOOKS = "books.safetensors"  # of the adapter layers: a run that is taken up again needs them


class HookCallback(TrainerCallback):
    """Calls the hooks that come when training begins and after each step of the optimiser."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.hooks = Hooks(self.trainer.model, state.max_steps, state.global_step)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.hooks.after_step()


class VariantMixin:
    """For a Trainer of an adapted model; stands before the trainer's class among the bases.

    Raises ValueError for a model that is not adapted, and for ways of training it cannot serve.
    """

    hooks: Hooks

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        find_adaptation(self.typed_self.model)
        if self.typed_self.is_fsdp_enabled or self.typed_self.is_deepspeed_enabled:
            raise ValueError("Sharded models, by FSDP or DeepSpeed, are not served here; use DDP.")
        if self.typed_self.accelerator.scaler is not None:
            raise ValueError("float16 scales gradients, which hooks read; train in bf16 instead.")
        self.ready = False  # whether the method has looked at data, or need not
        self.sha256: str | None = None
        self.typed_self.add_callback(HookCallback(self))

    @property
    def typed_self(self) -> Any:
        """The trainer that this is mixed into, for those who check types."""
        return self

    @property
    def variant(self) -> Variant:
        """The method that the model is adapted with."""
        return find_adaptation(self.typed_self.model)[2].variant

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser that the arguments name, over the method's groups and all else that trains.

        The first one comes after the method has looked at data.
        """
        trainer, args = self.typed_self, self.typed_self.args
        if not self.ready:
            self.ready = True
            look_at_data(trainer, self.variant)
        if trainer.optimizer is None:
            kinds = trainer.optimizer_cls_and_kwargs
            cls, options = kinds or trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
            if not isinstance(cls, type) or {"params", "model", "optimizer_dict"} & options.keys():
                raise ValueError(f"optim={args.optim} makes groups of its own; choose another one.")
            rate, decay = args.learning_rate, args.weight_decay
            groups = make_groups(model or trainer.model, self.variant, rate, decay)
            trainer.optimizer = cls(groups, **options)
            serve_groups(trainer.optimizer)
        return trainer.optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """A batch forward and back; behind a step's last one, what hooks do to the gradient."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.typed_self.accelerator.sync_gradients:
            # Each process adds the same, so that the mean over processes is right.
            add_gradient(self.typed_self.model, self.hooks.penalty())
            self.hooks.after_backward()
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the method's own numbers too, those of single layers left out."""
        if "loss" in logs:
            found = self.variant.telemetry(self.typed_self.model)
            logs |= {name: value for name, value in found.items() if "/" not in name}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the adapter, and not the base with it."""
        from safetensors.torch import save_file

        trainer = self.typed_self
        if not trainer.args.should_save:
            return
        folder = Path(output_dir or cast(str, trainer.args.output_dir))
        if self.sha256 is None:
            self.sha256 = hash_base(trainer.model)
        save(trainer.model, folder, self.sha256)
        kept = {
            name: tensor.detach().cpu() for name, tensor in collect_books(trainer.model).items()
        }
        save_file(kept, folder / BOOKS, metadata={"format": "pt"})
        if trainer.processing_class is not None:
            trainer.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        folder = Path(resume_from_checkpoint)
        load(self.typed_self.model, folder)
        copy_exactly(collect_books(self.typed_self.model), load_file(folder / BOOKS))
        self.ready = True  # by what was looked at before

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(cast(str, self.typed_self.state.best_model_checkpoint))


class VariantTrainer(VariantMixin, Trainer):
    """transformers' Trainer for an adapted model."""


def look_at_data(trainer: Any, variant: Variant) -> None:
    """Let a method look at data before it trains, if it wants to.

    Raises ValueError if there are several processes, or the data has no length.
    """
    if type(variant).prepare is Variant.prepare:
        return
    name, data = type(variant).__name__, trainer.train_dataset
    if trainer.args.world_size > 1:
        raise ValueError(f"{name} looks at data before it trains, in a single process only.")
    if data is None or not hasattr(data, "__len__"):
        raise ValueError(f"{name} looks at a share of the data, which needs a length.")
    with torch.random.fork_rng():  # the run itself draws what it would have drawn
        looking = DataProbe(trainer, variant)
        probe = Probe(looking.fit, looking.batches, looking.gradients)
        variant.prepare(trainer.model, probe)


class DataProbe:
    """A short training on a share of a trainer's data, beside its own."""

    def __init__(self, trainer: Any, variant: Variant) -> None:
        self.trainer, self.variant = trainer, variant

    def fit(self, share: float, steps: int) -> None:
        """Train on the share at the run's rate, held constant; all beside adapters stays as is."""
        with self.rest_restored():
            args = self.trainer.args
            groups = make_groups(
                self.trainer.model, self.variant, args.learning_rate, args.weight_decay
            )
            self.train(groups, self.count(share), steps)

    def train(self, groups: list[dict[str, Any]], count: int, steps: int) -> None:
        """Train these groups on so many examples, again and again."""
        trainer, model = self.trainer, self.trainer.model
        optimizer = torch.optim.AdamW(groups)
        serve_groups(optimizer)
        model.train()
        for inputs in islice(cycle(self.examples(count)), steps):
            self.loss(inputs).backward()
            if trainer.args.max_grad_norm > 0:
                keep_from_clipping(model)
                nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
            optimizer.step()
            model.zero_grad()

    def loss(self, inputs: dict[str, Any]) -> Tensor:
        """The trainer's loss of a batch, a mean over it."""
        with self.trainer.compute_loss_context_manager():
            return cast(Tensor, self.trainer.compute_loss(self.trainer.model, dict(inputs)))

    @contextmanager
    def rest_restored(self) -> Iterator[list[nn.Parameter]]:
        """Yield what trains beside the adapters, such as a new head; restore it afterwards."""
        model = self.trainer.model
        inside = {id(p) for _, layer in adapter_layers(model) for p in layer.parameters()}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
        before = [p.detach().clone() for p in rest]
        yield rest
        with torch.no_grad():
            for parameter, value in zip(rest, before, strict=True):
                parameter.copy_(value)

    def gradients(self, rows: int, head_steps: int) -> dict[str, Tensor]:
        """The mean of dL/dW0 over so many examples, by name of the adapted layer, without dropout.

        What trains beside the adapters trains alone for `head_steps` steps before, on all data.
        """
        trainer, total = self.trainer, len(self.trainer.train_dataset)
        count = min(rows, total)
        with self.rest_restored() as rest:
            if rest and head_steps:
                self.train_alone(rest, total, head_steps)
            with evaluation_mode(trainer.model):
                size = trainer.args.train_batch_size
                sizes = [min(size, count - start) for start in range(0, count, size)]
                batches = zip(self.examples(count), sizes, strict=True)
                losses = (self.loss(inputs) * rows_in_it for inputs, rows_in_it in batches)
                sums = gradients_at_W0(trainer.model, losses)
        return {name: total / count for name, total in sums.items()}

    def train_alone(self, parameters: list[nn.Parameter], count: int, steps: int) -> None:
        """Train these parameters on so many examples, and nothing beside them."""
        args, own = self.trainer.args, {id(p) for p in parameters}
        others = [
            p for p in self.trainer.model.parameters() if p.requires_grad and id(p) not in own
        ]
        group = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
        for parameter in others:
            parameter.requires_grad_(False)
        self.train([{"params": parameters, **group}], count, steps)
        for parameter in others:
            parameter.requires_grad_(True)

    def count(self, share: float) -> int:
        """How many examples a share of the data is."""
        return max(1, round(share * len(self.trainer.train_dataset)))

    def batches(self, share: float) -> Iterator[dict[str, Any]]:
        """The inputs of a fixed random share of the examples, in order."""
        return self.examples(self.count(share))

    def examples(self, count: int) -> Iterator[dict[str, Any]]:
        """The inputs of so many examples, the same ones every time."""
        trainer = self.trainer
        generator = torch.Generator().manual_seed(trainer.args.seed)
        rows = torch.randperm(len(trainer.train_dataset), generator=generator)[:count].tolist()
        collate = trainer._get_collator_with_removed_columns(trainer.data_collator, "training")
        subset = Subset(trainer.train_dataset, rows)
        for inputs in DataLoader(subset, trainer.args.train_batch_size, collate_fn=collate):
            yield trainer._prepare_inputs(inputs)
