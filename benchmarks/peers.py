"""The peers that our training is measured against: LoRA by PEFT, on transformers' own classifiers.

    A    Hugging Face's Trainer with the defaults of run_glue: padded to 128 tokens, float32
    A'   the same Trainer, padded to the longest text of the batch
    B    a plain loop, padded likewise, under autocast to bfloat16
    B32  B without autocast, which is the faster one where bfloat16 is not in the hardware

All have fused AdamW at our rates, and heads in which the same layers train as in ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import torch.nn as nn
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from experiments.adapters.peft_format import saved_modules
from experiments.batches import Batch, Encoded
from experiments.config import Run
from experiments.heads import IN_TRANSFORMERS
from experiments.job import Job
from experiments.training import Plan

RUN_GLUE = 128  # max_seq_length, to which run_glue pads


@dataclass(frozen=True)
class Peer:
    """What tells one peer from another."""

    trainer: bool
    width: int | None  # tokens that every text is padded to; None: to the longest of its batch
    autocast: bool = False


PEERS = {
    "A": Peer(trainer=True, width=RUN_GLUE),
    "A'": Peer(trainer=True, width=None),
    "B": Peer(trainer=False, width=None, autocast=True),
    "B32": Peer(trainer=False, width=None),
}


def peft_model(run: Run, pad: int) -> peft.PeftModel:
    """PEFT's LoRA of the run's settings on transformers' classifier."""
    config = run.model.config()
    config.num_labels, config.pad_token_id = run.task.num_outputs, pad
    base = AutoModelForSequenceClassification.from_pretrained(
        run.model.folder(), config=config, dtype=torch.float32, local_files_only=True
    )
    variant: Any = run.variant
    fused = config.model_type == "gpt2"
    lora = peft.LoraConfig(
        task_type="SEQ_CLS", r=variant.rank, lora_alpha=variant.alpha, lora_dropout=variant.dropout,
        # GPT-2 has one matrix for q, k and v there.
        target_modules=["c_attn"] if fused else list(variant.targets), fan_in_fan_out=fused,
        modules_to_save=saved_modules(config.model_type),
    )  # fmt: skip
    return peft.get_peft_model(base, lora)


def optimizer_of(model: nn.Module, plan: Plan, family: str) -> torch.optim.Optimizer:
    """Fused AdamW with our rates and decays."""
    head = tuple(IN_TRANSFORMERS[family].values())
    groups = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = plain_name(name)
            lr = plan.train.head_lr if plain.startswith(head) else plan.lr
            decay = plan.train.weight_decay if parameter.ndim > 1 else 0.0
            groups.append({"params": [parameter], "lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(joined(groups), fused=True)


def joined(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of equal settings as one, which a fused optimizer takes in one call."""
    found: dict[tuple[float, float], dict[str, Any]] = {}
    for group in groups:
        key = (group["lr"], group["weight_decay"])
        found.setdefault(key, {**group, "params": []})["params"] += group["params"]
    return list(found.values())


def plain_name(name: str) -> str:
    """A parameter's name in PEFT's checkpoints, without their root."""
    return (
        name.removeprefix("base_model.model.")
        .replace(".modules_to_save", "")
        .replace(".default", "")
    )


def schedule_of(optimizer: torch.optim.Optimizer, plan: Plan) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear, with our warm-up."""
    warmup = round(plan.train.warmup * plan.total)
    return get_linear_schedule_with_warmup(optimizer, warmup, plan.total)


@dataclass(frozen=True)
class Collate:
    """Pads texts on the right, to a fixed width or to the longest of them."""

    pad: int
    width: int | None

    def __call__(self, texts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        width = self.width or max(len(text["input_ids"]) for text in texts)
        names = [name for name in texts[0] if name != "labels"]
        inputs = {name: torch.stack([self.fill(t[name], width, name) for t in texts])
                  for name in names}  # fmt: skip
        return {**inputs, "labels": torch.stack([text["labels"] for text in texts])}

    def fill(self, row: Tensor, width: int, name: str) -> Tensor:
        """One text's numbers, with padding behind them."""
        value = self.pad if name == "input_ids" else 0
        return nn.functional.pad(row, (0, width - len(row)), value=value)


def texts_of(batches: Iterable[Batch]) -> list[dict[str, Tensor]]:
    """The texts of batches one by one, without padding."""
    found = []
    for batch in batches:
        lengths = batch.inputs["attention_mask"].sum(dim=1).tolist()
        for i, length in enumerate(lengths):
            text = {name: tensor[i, :length] for name, tensor in batch.inputs.items()}
            found.append(text if batch.labels is None else text | {"labels": batch.labels[i]})
    return found


def rows_of(encoded: Encoded) -> list[dict[str, Tensor]]:
    """A whole split, one text at a time."""
    return texts_of(encoded.batch(np.array([row])) for row in range(len(encoded)))


def trainer_of(
    model: nn.Module,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    collate: Collate,
    out: Path,
    **given: Any,
) -> Trainer:
    """The Trainer as run_glue makes it, which saves and reports nothing."""
    train = plan.train
    settings = TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.eval_batch_size, max_steps=plan.total,
        max_grad_norm=train.clip or 0.0, use_cpu=train.pick_device().type == "cpu",
        save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        seed=given.pop("seed", 0),
    )  # fmt: skip
    optimizers = (optimizer, schedule_of(optimizer, plan))
    return Trainer(model, settings, collate, optimizers=optimizers, **given)


@dataclass
class Stepping:
    """A peer, one step at a time, on the batches of a job of ours.

    Its batches are put together beforehand, and of the Trainer only the step is driven and not the
    loop around it with its logging and callbacks: both are in the peer's favour.
    """

    name: str
    peer: Peer
    job: Job
    out: Path  # where the Trainer may write
    model: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        plan, run = self.job.plan, self.job.run
        self.collate = collate_of(self.job, self.peer.width)
        self.model = peft_model(run, self.collate.pad).to(self.job.device)
        self.optimizer = optimizer_of(self.model, plan, run.model.config().model_type)
        self.schedule = schedule_of(self.optimizer, plan)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.model.train()
        if self.peer.trainer:
            self.take_trainer()

    def take_trainer(self) -> None:
        """As the Trainer's loop prepares itself."""
        self.trainer = trainer_of(self.model, self.job.plan, self.optimizer, self.collate, self.out)
        self.schedule = self.trainer.lr_scheduler
        self.model, self.optimizer = self.trainer.accelerator.prepare(self.model, self.optimizer)
        self.trainer.current_gradient_accumulation_steps = 1

    @property
    def modules(self) -> nn.Module:
        return self.model

    def ready(self, number: int) -> dict[str, Tensor]:
        """The batch of a step, padded as this peer does."""
        return self.collate(texts_of(self.job.batches.parts(number)))

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        loss = self.by_trainer(batch) if self.peer.trainer else self.by_loop(batch)
        self.optimizer.step()
        self.schedule.step()
        self.model.zero_grad()
        return loss

    def by_trainer(self, batch: dict[str, Tensor]) -> Tensor:
        """Gradients as the Trainer makes and clips them."""
        loss = self.trainer.training_step(self.model, batch)
        self.trainer.accelerator.clip_grad_norm_(
            self.model.parameters(), self.trainer.args.max_grad_norm
        )
        return loss

    def by_loop(self, batch: dict[str, Tensor]) -> Tensor:
        """Gradients as a plain loop makes and clips them."""
        loss = self.backward(batch)
        nn.utils.clip_grad_norm_(self.trained, self.job.plan.train.clip or float("inf"))
        return loss

    def backward(self, batch: dict[str, Tensor]) -> Tensor:
        """Gradients of a plain loop; returns the mean loss."""
        device = self.job.device
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=self.peer.autocast):
            loss = self.model(**batch).loss
        loss.backward()
        return loss.detach()


def collate_of(job: Job, width: int | None) -> Collate:
    """Padding with the token that the job's tokenizer has for it."""
    return Collate(job.loaded.tokenizer.pad_token_id or 0, width)
