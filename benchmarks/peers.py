"""The peers that our training is measured against: LoRA by PEFT, on transformers' own classifiers
and language models.

    A    Hugging Face's Trainer with the defaults of run_glue: padded to 128 tokens, float32
    A'   the same Trainer, padded to the longest text of the batch
    B    a plain loop, padded likewise, under autocast to bfloat16
    B32  B without autocast, which is the faster one where bfloat16 is not in the hardware

All have fused AdamW at our rates, and heads in which the same layers train as in ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)
from transformers.utils import logging as transformers_logging

from experiments.adapters.peft_format import list_saved_modules
from experiments.data.batches import IGNORED, Batch, Encoded
from experiments.families.base import family_of
from experiments.running.job import PreparedRun
from experiments.settings.config import Run
from experiments.training.loop import TrainingPlan

RUN_GLUE = 128  # max_seq_length, to which run_glue pads


@dataclass(frozen=True)
class Peer:
    """The settings in which peers differ."""

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
    """PEFT's LoRA of the run's settings on transformers' classifier or language model."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    config = run.model.config()
    classes = run.task.num_outputs
    if classes:
        config.num_labels, config.pad_token_id = classes, pad
    kind = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
    base = kind.from_pretrained(
        run.model.folder(), config=config, dtype=torch.float32, local_files_only=True
    )
    variant: Any = run.variant
    backbone: Any = base.base_model
    fused = config.model_type == "gpt2"
    lora = peft.LoraConfig(
        task_type="SEQ_CLS" if classes else "CAUSAL_LM", r=variant.rank,
        lora_alpha=variant.alpha, lora_dropout=variant.dropout,
        # GPT-2 has one matrix for q, k and v there.
        target_modules=["c_attn"] if fused else list(variant.targets), fan_in_fan_out=fused,
        modules_to_save=list_saved_modules(family_of(config).head_names(config), backbone)
        if classes else None,
    )  # fmt: skip
    return peft.get_peft_model(base, lora)


def optimizer_of(
    model: nn.Module, plan: TrainingPlan, config: PreTrainedConfig
) -> torch.optim.Optimizer:
    """Fused AdamW with our rates and decays."""
    head = tuple(family_of(config).head_names(config).values())
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


def schedule_of(
    optimizer: torch.optim.Optimizer, plan: TrainingPlan
) -> torch.optim.lr_scheduler.LambdaLR:
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
        columns = {name: [text[name] for text in texts] for name in texts[0]}
        return {name: torch.stack([self.fill(row, width, name) for row in rows])
                for name, rows in columns.items()}  # fmt: skip

    def fill(self, row: Tensor, width: int, name: str) -> Tensor:
        """One text's numbers, with padding behind them; a label of the whole text has none."""
        value = {"input_ids": self.pad, "labels": IGNORED}.get(name, 0)
        return F.pad(row, (0, width - len(row)), value=value) if row.ndim else row


def texts_of(batches: Iterable[Batch]) -> list[dict[str, Tensor]]:
    """The texts of batches one by one, without padding."""
    found = []
    for batch in batches:
        lengths = batch.inputs["attention_mask"].sum(dim=1).tolist()
        labels: Any = batch.labels
        if labels is not None and len(labels) != len(lengths):  # one for each token
            labels = labels.split(lengths)
        for i, length in enumerate(lengths):
            text = {name: tensor[i, :length] for name, tensor in batch.inputs.items()}
            found.append(text if labels is None else text | {"labels": labels[i]})
    return found


def rows_of(encoded: Encoded) -> list[dict[str, Tensor]]:
    """A whole split, one text at a time."""
    return texts_of(encoded.batch(np.array([row])) for row in range(len(encoded)))


class Loop:
    """A plain loop's model, and its steps on padded batches."""

    def __init__(self, run: Run, plan: TrainingPlan, pad: int, autocast: bool = False) -> None:
        self.plan, self.autocast = plan, autocast
        self.device, self.compute = run.compute.pick_device(), run.compute
        self.model: nn.Module = peft_model(run, pad).to(self.device)
        self.optimizer: Any = optimizer_of(self.model, plan, run.model.config())
        self.schedule: Any = schedule_of(self.optimizer, plan)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.model.train()

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """One optimiser step; returns the mean loss."""
        loss = self.backward(batch)
        self.clip()
        self.optimizer.step()
        self.schedule.step()
        self.model.zero_grad()
        return loss

    def backward(self, batch: dict[str, Tensor]) -> Tensor:
        """Give every trained parameter its gradient; returns the mean loss."""
        loss = self.forward(batch).loss
        loss.backward()
        return loss.detach()

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Return the output of transformers' classifier for a batch."""
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.model(**batch)

    def clip(self) -> None:
        """Cut the gradient to the plan's norm."""
        nn.utils.clip_grad_norm_(self.trained, self.plan.train.clip or float("inf"))


class Driven(Loop):
    """The Trainer's step without the loop around it, whose logging and callbacks cost more."""

    def __init__(self, run: Run, plan: TrainingPlan, collate: Collate, out: Path) -> None:
        super().__init__(run, plan, collate.pad)
        self.trainer = trainer_of(self, collate, out)
        prepared = self.trainer.accelerator.prepare(self.model, self.optimizer)
        self.model, self.optimizer = prepared
        self.trainer.current_gradient_accumulation_steps = 1

    def backward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.trainer.training_step(self.model, batch)

    def clip(self) -> None:
        clip = self.trainer.args.max_grad_norm
        self.trainer.accelerator.clip_grad_norm_(self.model.parameters(), clip)


def trainer_of(loop: Loop, collate: Collate, out: Path, **given: Any) -> Trainer:
    """The Trainer as run_glue makes it, on a loop's model and optimizer; it saves nothing."""
    train = loop.plan.train
    settings = TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=loop.compute.eval_batch_size, max_steps=loop.plan.total,
        max_grad_norm=train.clip or 0.0, use_cpu=loop.device.type == "cpu",
        save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        seed=given.pop("seed", 0),
    )  # fmt: skip
    optimizers = (loop.optimizer, loop.schedule)
    return Trainer(loop.model, settings, collate, optimizers=optimizers, **given)


class Stepping:
    """A peer, one step at a time, on the batches of a job of ours.

    Its batches are put together beforehand, which is in the peer's favour.
    """

    def __init__(self, name: str, job: PreparedRun, out: Path) -> None:
        self.name, self.job, self.peer = name, job, PEERS[name]
        self.collate = Collate(pad_of(job.loaded.tokenizer), self.peer.width)
        if self.peer.trainer:
            self.loop: Loop = Driven(job.run, job.plan, self.collate, out)
        else:
            self.loop = Loop(job.run, job.plan, self.collate.pad, self.peer.autocast)

    @property
    def modules(self) -> nn.Module:
        return self.loop.model

    def ready(self, number: int) -> Any:
        """The batch of a step, padded as this peer does."""
        return self.collate(texts_of(self.job.batches.parts(number)))

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.loop.step(batch)


def pad_of(tokenizer: Any) -> int:
    """The token to pad with; GPT-2 has none, and sees none of it."""
    return tokenizer.pad_token_id or 0
