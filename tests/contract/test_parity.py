"""The same numbers as PEFT, given the same tensors."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from transformers import RobertaForSequenceClassification, get_scheduler

from experiments.backbones.layers import float_masters
from experiments.data.batches import Batches, encode
from experiments.machine.randomness import seed_everything
from experiments.models.model import Model
from experiments.training.loop import TrainingListener, TrainingPlan, fit
from variants.base import adapter_layers

STEPS = 50
METHODS = {"lora": {}, "dora": {"use_dora": True}}
# float64: what remains is the order of sums, grown over fifty steps.
LOSSES = {"rtol": 1e-9, "atol": 0.0}
WEIGHTS = {"rtol": 1e-6, "atol": 1e-8}
OVERRIDES = ("model.dropout=0.0", "train.epochs=1", "train.accumulate=1", "train.batch_size=8")


class Losses(TrainingListener):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def after(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.values.append(float(loss))


def theirs_like(ours: Model, folder: Path, run: object, options: dict) -> torch.nn.Module:
    """PEFT's model on transformers' classifier, with the tensors of ours."""
    base = RobertaForSequenceClassification.from_pretrained(
        folder, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).double()
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=run.variant.rank, lora_alpha=run.variant.alpha, lora_dropout=0.0,
        target_modules=list(run.variant.targets), **options,
    )  # fmt: skip
    model = peft.get_peft_model(base, config, autocast_adapter_dtype=False)
    inner = model.base_model.model
    with torch.no_grad():
        for name, layer in adapter_layers(ours.backbone):
            their = inner.roberta.get_submodule(name)
            their.lora_A["default"].weight.copy_(layer.A)
            their.lora_B["default"].weight.copy_(layer.B)
        head = inner.classifier.modules_to_save["default"]
        head.load_state_dict(ours.head.state_dict())
    return model


def train_theirs(model: torch.nn.Module, batches: Batches, plan: TrainingPlan) -> list[float]:
    """A plain training loop with transformers' schedule."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = []
    for name, parameter in trained:
        lr = plan.train.head_lr if "classifier" in name else plan.lr
        decay = plan.train.weight_decay if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "lr": lr, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups)
    warmup = round(plan.train.warmup * plan.total)
    schedule = get_scheduler("linear", optimizer, warmup, plan.total)
    losses = []
    model.train()
    for step in range(1, plan.total + 1):
        (batch,) = batches.parts(step)
        loss = model(**batch.inputs, labels=batch.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in trained], plan.train.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("method", METHODS)
def test_fifty_steps_are_those_of_peft(
    tiny_run: Callable, tiny: Callable[[str], Path], method: str
) -> None:
    run = tiny_run(method, *OVERRIDES)
    loaded = run.model.load(2, torch.Generator().manual_seed(0), "fp32")
    seed_everything(0)
    run.variant.adapt(loaded.model.backbone)
    float_masters(loaded.model)
    ours = loaded.model.double()
    encoded = encode(loaded.tokenizer, run.task.load(run.data).train, 64)
    batches = Batches(encoded, run.train.batch_size, 1, seed=0)
    plan = TrainingPlan(run.train, lr=5e-3, total=STEPS)
    theirs = theirs_like(ours, tiny("roberta"), run, METHODS[method])

    listener = Losses()
    fit(ours, run.variant, batches, plan, listener)
    expected = train_theirs(theirs, batches, plan)

    found = torch.tensor(listener.values, dtype=torch.float64)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **LOSSES)
    inner = theirs.base_model.model
    for name, layer in adapter_layers(ours.backbone):
        their = inner.roberta.get_submodule(name)
        torch.testing.assert_close(layer.A, their.lora_A["default"].weight, **WEIGHTS)
        torch.testing.assert_close(layer.B, their.lora_B["default"].weight, **WEIGHTS)
        if method == "dora":
            m = their.lora_magnitude_vector["default"].weight
            torch.testing.assert_close(layer.m, m, **WEIGHTS)
    head = inner.classifier.modules_to_save["default"].state_dict()
    for name, tensor in ours.head.state_dict().items():
        torch.testing.assert_close(tensor, head[name], **WEIGHTS)
    moved = [layer.B.abs().max() for _, layer in adapter_layers(ours.backbone)]
    assert min(moved) > 0.01, "a run that learns nothing shows nothing"
