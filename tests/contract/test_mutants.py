"""Known public bugs, planted one at a time: the tests named here must fail on each."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import test_adalora
import test_contract
import test_delta_lora
import test_lora_drop
import test_models
import test_parity
import test_quantize
import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import PreTrainedModel

from experiments.families import gpt2
from experiments.models.engine import Engine
from experiments.training.loop import TrainingListener, TrainingPlan, fit
from experiments.training.probe import ProbeRun
from variants.adalora import AdaLoRA
from variants.base import Variant
from variants.delta_lora import DeltaLoRALayer
from variants.dora import DoRALayer
from variants.lora import LoRALayer
from variants.lora_drop import LoRADrop, lora_layers
from variants.qa_lora import QALoRALayer
from variants.quantize import GroupLinear

FAILURE = (AssertionError, RuntimeError, ValueError)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch, cases: dict) -> Iterator[Callable[..., None]]:
    """Put a bug in the place of a method, or of a function of a module."""
    sound = dict(cases)
    cases.clear()  # a model loaded before has no bug
    yield monkeypatch.setattr
    cases.clear()  # and one loaded since must not be kept
    cases.update(sound)


def test_a_scale_forgotten_in_forward(plant: Callable, case: Callable) -> None:
    plant(LoRALayer, "branch", lambda self, x: F.linear(F.linear(x, self.A), self.B))
    with pytest.raises(FAILURE):
        test_contract.test_a_layer_is_its_merged_weight(
            lambda state, *which: test_contract.nudged(case, *which),
            *("lora", "roberta", "fp32", "nudged"),
        )


def test_a_norm_over_the_wrong_axis(plant: Callable, case: Callable) -> None:
    plant(DoRALayer, "row_norm", lambda self: LoRALayer.merged_weight(self).detach().norm(dim=0))
    with pytest.raises(FAILURE):
        test_contract.test_an_adapted_model_starts_as_the_pretrained_one(
            case, "dora", "roberta", "fp32"
        )


def test_a_norm_that_is_not_detached(
    plant: Callable, tiny_run: Callable, tiny: Callable[[str], Path]
) -> None:
    plant(DoRALayer, "row_norm", lambda self: LoRALayer.merged_weight(self).norm(dim=1))
    with pytest.raises(FAILURE):
        test_parity.test_fifty_steps_are_those_of_peft(tiny_run, tiny, "dora")


def test_an_allocator_that_is_never_called(
    plant: Callable, tiny_run: Callable, tmp_path: Path
) -> None:
    plant(AdaLoRA, "after_step", Variant.after_step)
    with pytest.raises(FAILURE):
        test_adalora.test_the_final_ranks_add_up_to_the_target(tiny_run, tmp_path)


def test_a_penalty_that_is_never_added(plant: Callable) -> None:
    plant(AdaLoRA, "penalty", Variant.penalty)
    with pytest.raises(FAILURE):
        test_adalora.test_ranks_importance_and_weights_are_those_of_peft()


def test_a_fused_projection_split_without_transposing(
    plant: Callable, case: Callable, tiny: Callable[[str], Path]
) -> None:
    right = gpt2.linear_from_conv

    def wrong(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
        square = weight.shape[0] == weight.shape[1]
        return right(weight.T if square else weight, bias)

    plant(gpt2, "linear_from_conv", wrong)
    with pytest.raises(FAILURE):
        test_models.test_splitting_gpt2_changes_no_output_bit(case, tiny)


def test_a_change_of_factors_in_the_place_of_products(plant: Callable) -> None:
    def wrong(self: DeltaLoRALayer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y + self.branch(x)
        if self.A_k is None or self.B_k is None:
            return y
        A, B = self.A.detach() - self.A_k, self.B.detach() - self.B_k
        return y + F.linear(F.linear(x, A), B) * (self.ratio * self.scale)

    plant(DeltaLoRALayer, "update", wrong)
    plant(DeltaLoRALayer, "factors", lambda self: None)
    with pytest.raises(FAILURE):
        test_delta_lora.assert_literal(3, 0.0)


def test_a_moved_part_with_gradients_to_the_factors(plant: Callable) -> None:
    def wrong(self: DeltaLoRALayer) -> tuple[torch.Tensor, torch.Tensor, float]:
        if self.A_k is None or self.B_k is None:
            return self.A, self.B, self.scale
        B = torch.cat(((1 + self.ratio) * self.B, -self.ratio * self.B_k), dim=1)
        return torch.cat((self.A, self.A_k)), B, self.scale

    plant(DeltaLoRALayer, "factors", wrong)
    with pytest.raises(FAILURE):
        test_delta_lora.assert_literal(3, 0.0)


def test_zero_points_that_are_rounded(plant: Callable) -> None:
    right = QALoRALayer.merge

    def wrong(self: QALoRALayer) -> nn.Module:
        merged = right(self)
        assert isinstance(merged, GroupLinear)
        merged.low = (merged.low / merged.step).round() * merged.step
        return merged

    plant(QALoRALayer, "merge", wrong)
    with pytest.raises(FAILURE):
        test_quantize.test_merging_moves_zero_points_alone_and_is_exact(4)


def test_a_shared_tensor_that_is_saved_twice(
    plant: Callable, tiny_run: Callable, tmp_path: Path
) -> None:
    right = LoRADrop.learned_state

    def wrong(self: LoRADrop, model: nn.Module) -> dict[str, torch.Tensor]:
        every = {
            f"{name}.{factor}": getattr(layer, factor).detach()
            for name, layer in lora_layers(model).items()
            for factor in ("A", "B")
        }
        return right(self, model) | every

    plant(LoRADrop, "learned_state", wrong)
    with pytest.raises(FAILURE):
        test_lora_drop.test_shared_factors_are_saved_once_and_restored(tiny_run, tmp_path)


def test_a_head_that_is_not_restored(plant: Callable, tiny_run: Callable) -> None:
    def wrong(self: ProbeRun, share: float, steps: int) -> None:
        plan = TrainingPlan(self.plan.train, self.plan.lr, steps)
        batches = test_lora_drop.prepare_run(self.run_, self.run_.task.load(self.run_.data)).batches
        fit(self.model, self.variant, batches, plan, TrainingListener())

    run = tiny_run("lora_drop", "variant.steps=5", "variant.threshold=0.5")
    plant(ProbeRun, "run_", run, raising=False)
    plant(ProbeRun, "fit", wrong)
    with pytest.raises(FAILURE):
        test_lora_drop.test_the_probe_leaves_the_head_as_it_was_and_the_factors_fresh(tiny_run)


def test_an_adapter_without_gradient_under_checkpointing(plant: Callable, case: Callable) -> None:
    right = PreTrainedModel.gradient_checkpointing_enable

    def wrong(self: PreTrainedModel, options: dict) -> None:
        right(self, {"use_reentrant": True})

    plant(PreTrainedModel, "gradient_checkpointing_enable", wrong)
    # transformers makes up for the re-entrant form by a gradient for the embeddings' output.
    plant(PreTrainedModel, "enable_input_require_grads", lambda self: None)
    with pytest.raises(FAILURE):
        test_contract.test_gradients_are_the_same_under_checkpointing(
            case, "lora", "roberta", Engine("transformers")
        )
