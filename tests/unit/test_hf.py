"""Adapted models under the trainers of others: hooks, groups, checkpoints, and what is refused."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from accelerate import Accelerator
from conftest import gpt2_tokenizer
from modules import looks_at_data, small
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from variants import (
    Hooks,
    adapt,
    learned_state,
    list_methods,
    load,
    merge,
    optimizer_for,
    save,
    summary,
)  # fmt: skip
from variants.base import Progress, Variant, adapter_layers
from variants.hf import VariantMixin, VariantTrainer

pytestmark = pytest.mark.thorough

D, STEPS, TEXTS, LENGTH = 16, 6, 32, 9
WORDS = {f"w{i}": i for i in range(1, 40)} | {"<|endoftext|>": 0}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=40, hidden_size=D, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    ))  # fmt: skip


def data(different: bool = True) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (TEXTS, LENGTH), generator=generator)
    ids = ids if different else ids[:1].expand(TEXTS, LENGTH)
    mask = torch.ones(LENGTH, dtype=torch.long)
    return [{"input_ids": row, "labels": row, "attention_mask": mask} for row in ids]


def arguments(folder: Path, **given: Any) -> TrainingArguments:
    settings = {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": 4,
        "learning_rate": 1e-2, "report_to": [], "logging_steps": 1, "save_steps": 3,
        "disable_tqdm": True, "use_cpu": True, "seed": 1, "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
    }  # fmt: skip
    return TrainingArguments(**settings | given)


SETTINGS: dict[str, dict[str, Any]] = {
    "adalora": {"rank": 3, "target_rank": 1, "interval": 1, "warmup": 0.1, "final": 0.3},
    "delta_lora": {"rank": 2, "start": 0.3},
    "last_k": {"k": 1},
    "lora_drop": {"rank": 2, "steps": 2, "share": 0.3, "threshold": 0.5},
    "lora_plus": {"rank": 2, "ratio": 3.0},
    "qa_lora": {"rank": 2, "group": 8},
    "qlora": {"rank": 2, "block": 16},
    "vera": {"rank": 4},
}
TRAINED = [
    name for name in list_methods() if name not in ("head_only", "bitfit")
]  # a Llama has no bias


def adapted(name: str, **given: Any) -> LlamaForCausalLM:
    model = llama()
    torch.manual_seed(2)
    adapt(model, name, **{**SETTINGS.get(name, small(name)), **given})
    return model


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learned_state(model).items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert_close(other[name], tensor, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_resumes_bit_for_bit_and_its_checkpoints_are_adapters(
    name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    model = adapted(name)
    trainer = VariantTrainer(model=model, args=arguments(tmp_path), train_dataset=data())
    trainer.train()
    again = adapted(name)
    resumed = VariantTrainer(model=again, args=arguments(tmp_path), train_dataset=data())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_equal(states(model), states(again))
    assert trainer.state.log_history[-2]["loss"] == resumed.state.log_history[-2]["loss"]
    assert not [str(w.message) for w in recwarn if "hooks" in str(w.message)]
    fresh, ids = llama().eval(), torch.randint(1, 40, (2, LENGTH))
    load(fresh, tmp_path / "checkpoint-6")
    y = model.eval()(ids).logits
    assert torch.equal(fresh(ids).logits, y)
    assert not (tmp_path / "checkpoint-6" / "model.safetensors").exists()
    save(model, tmp_path / "saved")
    load(saved := llama().eval(), tmp_path / "saved")
    assert torch.equal(saved(ids).logits, y)
    merge(saved)
    assert_close(saved(ids).logits, y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in TRAINED if not looks_at_data(n)])
def test_the_trainer_takes_the_steps_of_a_plain_loop(name: str, tmp_path: Path) -> None:
    examples = data(different=False)  # so that it does not matter which of them comes when
    outcomes = []
    model = adapted(name)
    clip = 0.05
    given = {"gradient_accumulation_steps": 2, "max_grad_norm": clip, "save_strategy": "no"}
    VariantTrainer(model=model, args=arguments(tmp_path, **given), train_dataset=examples).train()
    outcomes.append(states(model))
    model = adapted(name).train()
    hooks, optimizer = Hooks(model, STEPS), optimizer_for(model, lr=1e-2, weight_decay=0.01)
    batch = {key: torch.stack([row[key] for row in examples[:4]]) for key in examples[0]}
    for _ in range(STEPS):
        (model(**batch).loss + hooks.penalty()).backward()
        hooks.after_backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        hooks.after_step()
        optimizer.zero_grad()
    outcomes.append(states(model))
    for key, tensor in outcomes[0].items():
        assert_close(outcomes[1][key], tensor, rtol=1e-3, atol=1e-4)


def test_the_ranks_fall_and_are_logged(tmp_path: Path) -> None:
    model = adapted("adalora")
    trainer = VariantTrainer(model=model, args=arguments(tmp_path), train_dataset=data())
    trainer.train()
    ranks = [entry["rank"] for entry in trainer.state.log_history if "rank" in entry]
    assert ranks[0] == 3 * 14 and ranks[-1] == 14 and sorted(ranks, reverse=True) == ranks


def test_the_order_of_the_hooks_in_a_step(tmp_path: Path) -> None:
    said: list[str] = []

    class Telling(type(adapt(llama(), "lora", rank=2))):
        def prepare(self, model: nn.Module, probe: Any) -> None:
            said.append(f"prepare {len(list(probe.batches(0.5)))}")

        def penalty(self, model: nn.Module) -> Tensor | float:
            said.append("penalty")
            return sum(layer.B.square().sum() for _, layer in adapter_layers(model))  # type: ignore

        def after_backward(self, model: nn.Module, progress: Progress) -> None:
            norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
            said.append(f"back {progress.step}/{progress.total} {float(norm.norm()) > 1e-6}")

        def after_step(self, model: nn.Module, progress: Progress) -> None:
            norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
            said.append(f"step {progress.step}/{progress.total} {float(norm.norm()) > 1e-6}")

    model = llama()
    adapt(model, Telling(**vars(adapt(llama(), "lora", rank=2))))
    given = {"max_steps": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 1e-8}
    VariantTrainer(
        model=model, args=arguments(tmp_path, **given, save_strategy="no"), train_dataset=data()
    ).train()
    assert said == [
        "prepare 4", "penalty", "back 1/2 True", "step 1/2 False",
        "penalty", "back 2/2 True", "step 2/2 False",
    ]  # fmt: skip


def test_looking_at_data_leaves_the_head_and_the_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=D, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, num_labels=3, max_position_embeddings=16,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    adapt(model, "lora_drop", targets="attention", also_train="classifier", **SETTINGS["lora_drop"])
    before = model.classifier.weight.detach().clone()
    rows = [{**row, "labels": torch.tensor(i % 3)} for i, row in enumerate(data())]
    trainer = VariantTrainer(model=model, args=arguments(tmp_path), train_dataset=rows)
    random = torch.get_rng_state()
    trainer.create_optimizer()
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(model.classifier.weight, before)
    pairs = {id(layer.A) for _, layer in adapter_layers(model)}
    assert 1 < len(pairs) < 8
    held = [id(p) for g in trainer.optimizer.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["vera", "lora_drop"])
def test_transformers_own_trainer_saves_shared_tensors_too(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    if name == "lora_drop":
        layers = [layer for _, layer in adapter_layers(model)]
        for layer in layers:
            if layer.A.shape == layers[0].A.shape and layer.B.shape == layers[0].B.shape:
                layer.A, layer.B = layers[0].A, layers[0].B
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hooks are not called
        Trainer(model=model, args=arguments(tmp_path), train_dataset=data()).train()
    assert (tmp_path / "checkpoint-3" / "model.safetensors").is_file()
    if name == "vera":
        again = adapted(name)
        resumed = Trainer(model=again, args=arguments(tmp_path), train_dataset=data())
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert_equal(states(model), states(again))


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path: Path) -> None:
    model = adapted("dora")
    given = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3,
             "learning_rate": 0.5, "metric_for_best_model": "loss"}  # fmt: skip
    trainer = VariantTrainer(
        model=model, args=arguments(tmp_path, **given), train_dataset=data(), eval_dataset=data()
    )
    trainer.train()
    load(best := adapted("dora"), Path(trainer.state.best_model_checkpoint))
    assert_equal(states(model), states(best))


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        yield from data()


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^The model is not adapted: call variants\.adapt first"):
        VariantTrainer(model=llama(), args=arguments(tmp_path), train_dataset=data())
    trainer = VariantTrainer(
        model=adapted("lora_drop"), args=arguments(tmp_path), train_dataset=Endless()
    )
    with pytest.raises(ValueError, match=r"^LoRADrop looks at a share of the data, which"):
        trainer.train()
    save(adapted("lora"), tmp_path / "other")
    trainer = VariantTrainer(model=adapted("dora"), args=arguments(tmp_path), train_dataset=data())
    with pytest.raises(ValueError, match=r"does not fit this model: method is 'LoRA' there"):
        trainer._load_from_checkpoint(str(tmp_path / "other"))


@pytest.mark.parametrize("name", ["dora", "adalora"])
def test_a_loop_of_accelerate(name: str) -> None:
    model = adapted(name)
    before = states(model)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    loader = DataLoader(data(), batch_size=4)  # type: ignore[arg-type]
    ready, optimizer, batches = accelerator.prepare(model, optimizer_for(model, lr=1e-2), loader)
    hooks = Hooks(model, 4)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*hooks.*")
        for batch in batches:
            with accelerator.accumulate(ready):
                accelerator.backward(ready(**batch).loss + hooks.penalty() / 2)
                if accelerator.sync_gradients:
                    hooks.after_backward()
                    accelerator.clip_grad_norm_(ready.parameters(), 1.0)
                optimizer.step()
                if accelerator.sync_gradients:
                    hooks.after_step()
                optimizer.zero_grad()
    assert hooks.done == 4
    assert any(not torch.equal(before[key], tensor) for key, tensor in states(model).items())
    if name == "adalora":
        assert sum(int((layer.E != 0).sum()) for _, layer in adapter_layers(model)) == 14
    assert "trained" in str(summary(model))


@pytest.mark.parametrize("name", ["dora", "adalora"])
def test_trls_trainer(name: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")

    class Tuning(VariantMixin, trl.SFTTrainer):
        pass

    texts = [" ".join(f"w{int(i)}" for i in row["input_ids"]) for row in data()]
    settings = arguments(tmp_path).to_dict()
    kept = ("output_dir", "max_steps", "per_device_train_batch_size", "learning_rate", "report_to",
            "logging_steps", "save_steps", "disable_tqdm", "use_cpu", "seed")  # fmt: skip
    config = trl.SFTConfig(**{key: settings[key] for key in kept}, bf16=False)
    model = adapted(name)
    trainer = Tuning(
        model=model, args=config, train_dataset=datasets.Dataset.from_dict({"text": texts}),
        processing_class=gpt2_tokenizer(WORDS),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == STEPS and all(torch.isfinite(torch.tensor(losses)))
    if name == "adalora":
        ranks = [entry["rank"] for entry in trainer.state.log_history if "rank" in entry]
        assert ranks[0] == 3 * 14 and ranks[-1] == 14
    load(fresh := llama(), tmp_path / f"checkpoint-{STEPS}")
    ids = torch.randint(1, 40, (2, LENGTH))
    assert torch.equal(fresh.eval()(ids).logits, model.eval()(ids).logits)
    assert isinstance(trainer.variant, Variant)
