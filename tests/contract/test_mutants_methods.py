"""Known public bugs of single methods, planted one at a time: the tests named here must fail."""

from collections.abc import Callable
from pathlib import Path

import pytest
import test_full_rank
import test_gradients
import test_ia3
import test_inputs
import test_lora_xs
import test_oft
import test_products
import test_quantised
import test_ranks
import test_residual
import test_rules
import test_spectra
import test_turns
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants import activations, eva, residual, spectral
from variants.activations import Moments
from variants.base import AdapterLayer, at_least_float32
from variants.boft import BOFTLayer
from variants.delora import DeLoRALayer
from variants.dylora import DyLoRALayer
from variants.fourierft import FourierFTLayer
from variants.hra import HRALayer
from variants.ia3 import IA3Layer
from variants.loftq import LoftQ
from variants.loha import LoHaLayer
from variants.lokr import LoKrLayer
from variants.lora_ga import LoRAGA
from variants.lora_one import LoRAOne
from variants.lora_pro import LoRAProLayer
from variants.milora import MiLoRA
from variants.oft import OFTLayer
from variants.olora import OLoRA
from variants.pissa import PiSSA
from variants.qdora import QDoRA
from variants.randlora import RandLoRALayer
from variants.riemannian import Riemannian
from variants.road import RoAdLayer
from variants.sora import SoRA, SoRALayer

FAILURE = (AssertionError, RuntimeError, ValueError)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a bug in the place of a method, or of a function of a module."""
    return monkeypatch.setattr


@pytest.mark.parametrize("layer", [IA3Layer, RoAdLayer])
def test_a_merged_bias_that_stays(plant: Callable, layer: type[AdapterLayer]) -> None:
    plant(layer, "merged_bias", AdapterLayer.merged_bias)
    with pytest.raises(FAILURE):
        if layer is IA3Layer:
            test_ia3.test_an_output_vector_of_two_doubles_the_output_with_its_bias()
        else:
            test_turns.test_a_pair_of_neighbours_is_turned_and_stretched_with_its_bias()


@pytest.mark.parametrize(("name", "layer"), [("loha", LoHaLayer), ("lokr", LoKrLayer)])
def test_a_scale_twice_in_the_merged_weight(plant: Callable, name: str, layer: type) -> None:
    right = layer.merged_weight

    def wrong(self: AdapterLayer) -> Tensor:
        W0 = at_least_float32(self.W0)
        return W0 + self.scale * (right(self) - W0)

    plant(layer, "merged_weight", wrong)
    if layer is LoHaLayer:  # whose forward pass makes the merged weight
        plant(layer, "forward", lambda self, x: self.base(x) + F.linear(x, self.delta()))
    with pytest.raises(FAILURE):
        test_products.test_output_merge_and_format_are_those_of_peft(name, (12, 8))


def test_minor_triplets_by_a_decomposition_that_gives_the_principal_ones(plant: Callable) -> None:
    plant(MiLoRA, "start_of", PiSSA.start_of)
    with pytest.raises(FAILURE):
        test_residual.test_pissa_and_milora_split_w0_between_them((8, 12))


def test_an_orthonormal_start_that_the_scale_divides(plant: Callable) -> None:
    right = OLoRA.start_of

    def wrong(self: OLoRA, layer: residual.ResidualLayer) -> tuple[Tensor, Tensor]:
        A, B = right(self, layer)
        return A / self.scale, B

    plant(OLoRA, "start_of", wrong)
    with pytest.raises(FAILURE):
        test_residual.test_olora_is_a_qr_decomposition_that_no_scale_divides(2.0)


def test_singular_vectors_of_any_sign(plant: Callable) -> None:
    def wrong(W0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        U, S, Vh = torch.linalg.svd(W0, full_matrices=False)
        return -U, S, -Vh

    plant(spectral, "signed_svd", wrong)
    plant(test_lora_xs, "signed_svd", wrong)
    with pytest.raises(FAILURE):
        test_lora_xs.test_signs_follow_a_rule_and_other_vectors_are_refused()


@pytest.mark.parametrize(
    "how", ["singular values in B", "gamma without its root", "blocks swapped"]
)
def test_a_start_from_the_gradient_that_is_another(plant: Callable, how: str) -> None:
    def wrong(self: LoRAGA, G: Tensor) -> tuple[Tensor, Tensor]:
        U, S, Vh = torch.linalg.svd(G, full_matrices=False)
        r, c = self.rank, len(G) ** 0.25 / self.gamma**0.5
        if how == "singular values in B":
            return Vh[:r], c * U[:, r : 2 * r] * S[r : 2 * r]
        if how == "gamma without root":
            return len(G) ** 0.25 / self.gamma * Vh[:r], c * U[:, r : 2 * r]
        return c * Vh[:r], c * U[:, :r]

    plant(LoRAGA, "along", wrong)
    with pytest.raises(FAILURE):
        test_gradients.test_the_first_step_goes_along_the_best_approximation_of_the_gradient(
            "ArB2r"
        )


def test_singular_values_whole_on_both_factors(plant: Callable) -> None:
    def wrong(self: LoRAOne, step: Tensor) -> tuple[Tensor, Tensor]:
        U, S, Vh = torch.linalg.svd(step, full_matrices=False)
        r = self.rank
        return S[:r, None] * Vh[:r] / self.gamma**0.5, U[:, :r] * S[:r] / self.gamma**0.5

    plant(LoRAOne, "along", wrong)
    with pytest.raises(FAILURE):
        test_gradients.test_lora_one_starts_a_normalised_step_against_the_gradient()


def test_an_ascent_in_the_place_of_a_descent(plant: Callable) -> None:
    right = LoRAOne.along
    plant(LoRAOne, "along", lambda self, step: right(self, -step))
    with pytest.raises(FAILURE):
        test_gradients.test_lora_one_starts_a_normalised_step_against_the_gradient()


def test_inputs_that_are_not_centred(plant: Callable) -> None:
    plant(Moments, "covariance", lambda self: self.second / self.tokens)
    with pytest.raises(FAILURE):
        test_inputs.test_planted_directions_are_found_though_the_mean_is_large()


def test_padding_that_counts_as_tokens(plant: Callable, tiny_run: Callable) -> None:
    right = activations.visit_inputs

    def wrong(model: nn.Module, layers: dict, batches: object, visit: Callable) -> None:
        class Unmasked:
            def __init__(self, batch: object) -> None:
                self.inputs = batch.inputs
                self.inputs["attention_mask"] = torch.ones_like(self.inputs["attention_mask"])

        right(model, layers, map(Unmasked, batches), visit)

    plant(activations, "visit_inputs", wrong)
    with pytest.raises(FAILURE):
        test_inputs.test_moments_are_those_of_real_tokens_and_shared_by_equal_inputs(
            tiny_run, "roberta"
        )


def test_ranks_that_do_not_add_up(plant: Callable, tiny_run: Callable) -> None:
    right = eva.distribute
    plant(eva, "distribute", lambda ratios, total: right(ratios, total - 1))
    with pytest.raises(FAILURE):
        test_inputs.test_a_probe_gives_directions_ranks_and_the_pretrained_model(tiny_run)


def test_a_fitted_product_that_the_layer_multiplies_again(plant: Callable) -> None:
    def wrong(self: LoftQ, linear: nn.Module) -> nn.Module:
        made = super(LoftQ, self).wrap(linear)
        made.base, A, B = self.fit(linear, linear.weight.detach())
        made.A.data, made.B.data = A, B
        return made

    plant(LoftQ, "wrap", wrong)
    with pytest.raises(FAILURE):
        test_quantised.test_one_iteration_leaves_what_the_best_product_cannot_reach(2.0)


def test_a_magnitude_of_the_weight_before_it_was_quantised(plant: Callable) -> None:
    right = QDoRA.wrap

    def wrong(self: QDoRA, linear: nn.Module) -> nn.Module:
        norm = linear.weight.detach().norm(dim=1)
        layer = right(self, linear)
        layer.m.data = norm
        return layer

    plant(QDoRA, "wrap", wrong)
    with pytest.raises(FAILURE):
        test_quantised.test_qdoras_magnitude_is_that_of_the_quantised_weight()


def test_a_rotation_the_other_way_round(plant: Callable) -> None:
    right = OFTLayer.turn
    plant(OFTLayer, "turn", lambda self: right(self).mT)
    with pytest.raises(FAILURE):
        test_oft.test_output_merge_and_format_are_those_of_peft(4, 0)


def test_a_scale_that_multiplies_the_bias_too(plant: Callable) -> None:
    right = BOFTLayer.forward

    def wrong(self: BOFTLayer, x: Tensor) -> Tensor:
        return right(self, x) + (self.s - 1) * self.bias

    plant(BOFTLayer, "forward", wrong)
    with pytest.raises(FAILURE):
        test_oft.test_bofts_scale_leaves_the_bias_and_is_not_decayed()


def test_reflections_that_do_not_begin_in_pairs(plant: Callable) -> None:
    right = HRALayer.__init__

    def wrong(self: HRALayer, base: nn.Module, rank: int) -> None:
        right(self, base, rank)
        nn.init.kaiming_uniform_(self.U, a=5**0.5)

    plant(HRALayer, "__init__", wrong)
    with pytest.raises(FAILURE):
        test_turns.test_only_directions_matter_and_a_pair_begins_to_part_at_once()


def test_reflections_in_the_other_order(plant: Callable) -> None:
    right = HRALayer.product

    def wrong(self: HRALayer) -> tuple[Tensor, Tensor, float]:
        self.U.data = self.U.data.flip(1)
        found = right(self)
        self.U.data = self.U.data.flip(1)
        return found

    plant(HRALayer, "product", wrong)
    with pytest.raises(FAILURE):
        test_turns.test_hra_is_the_product_of_its_reflections_and_pefts(4)


@pytest.mark.parametrize("how", ["transposed", "another constant"])
def test_a_spectrum_that_is_used_otherwise(plant: Callable, how: str) -> None:
    right = FourierFTLayer.delta
    if how == "transposed":
        plant(FourierFTLayer, "delta", lambda self: right(self).T)
    else:
        plant(FourierFTLayer, "delta", lambda self: right(self) / self.alpha * 300)
    with pytest.raises(FAILURE):
        test_spectra.test_the_update_is_a_sum_of_cosines((8, 8), 20)


def test_bases_that_are_paired_by_blocks(plant: Callable) -> None:
    def wrong(self: RandLoRALayer) -> Tensor:
        (d_out, d_in), (count, k) = self.W0.shape, self.gamma.shape
        M = (self.scale * self.lamda)[:, :, None] * self.A[:, :, :k] * self.gamma
        B = self.B[: max(d_out, d_in), :count].flatten(1)
        change = B @ M.transpose(0, 1).flatten(0, 1)  # column j r + i, as B was drawn
        return change if d_out >= d_in else change.T

    plant(RandLoRALayer, "delta", wrong)
    with pytest.raises(FAILURE):
        test_full_rank.test_randlora_is_that_of_peft((12, 8), 3)


@pytest.mark.parametrize("how", ["aliased", "of the first lambda"])
def test_a_frozen_start_that_is_none(plant: Callable, how: str) -> None:
    right = DeLoRALayer.__init__

    def wrong(self: DeLoRALayer, *given: object) -> None:
        right(self, *given)
        self.A_0.data, self.B_0.data = self.A.data, self.B.data

    def stale(self: DeLoRALayer) -> tuple[Tensor, Tensor, float]:
        A = torch.cat((self.A, self.A_0)) * self.W0.norm(dim=0)
        B = torch.cat((self.B * self.lamda, -self.B_0 * 3.0), dim=1) / len(self.A)
        lengths = torch.cat((self.A, self.A_0)).norm(dim=1)
        lengths = lengths * torch.cat((self.B, self.B_0), dim=1).norm(dim=0)
        return A, B / lengths, 1.0

    if how == "aliased":
        plant(DeLoRALayer, "__init__", wrong)
    else:
        plant(DeLoRALayer, "product", stale)
    with pytest.raises(FAILURE):
        if how == "aliased":
            test_turns.test_the_frozen_start_is_a_copy_and_lambda_has_its_own_rate()
        else:
            test_turns.test_deloras_start_cancels_whatever_lambda_is()


def test_a_rewritten_gradient_that_is_clipped(plant: Callable) -> None:
    plant(Riemannian, "param_groups", residual.LoRA.param_groups)
    with pytest.raises((*FAILURE, KeyError)):
        test_rules.test_at_the_start_b_alone_moves_and_nothing_is_clipped()


def test_a_scale_that_is_always_two(plant: Callable) -> None:
    right = LoRAProLayer.nearest

    def wrong(self: LoRAProLayer, g_A: Tensor, g_B: Tensor) -> tuple[Tensor, Tensor]:
        h_A, h_B = right(self, g_A, g_B)
        return h_A * (self.scale / 5.66) ** 2, h_B * (self.scale / 5.66) ** 2

    plant(LoRAProLayer, "nearest", wrong)
    with pytest.raises(FAILURE):
        test_rules.test_lora_pros_steps_move_w_as_near_to_the_gradient_as_they_can()


def test_a_threshold_that_closes_all_below_twice_itself(plant: Callable) -> None:
    def wrong(self: SoRA, model: nn.Module, progress: object) -> None:
        for layer in model.modules():
            if isinstance(layer, SoRALayer):
                g = layer.g.data
                g = torch.where(g.abs() > self.xi, g - self.xi * g.sign(), g)
                layer.g.data = torch.where(g.abs() < self.xi, torch.zeros_like(g), g)

    plant(SoRA, "after_step", wrong)
    with pytest.raises(FAILURE):
        test_ranks.test_a_gate_shrinks_by_xi_and_no_further_than_zero()


def test_a_truncated_rank_with_the_scale_of_all(plant: Callable) -> None:
    right = DyLoRALayer.first_ranks

    def wrong(self: DyLoRALayer) -> tuple[Tensor, Tensor, float]:
        A, B, scale = right(self)
        return A, B * self.b / len(self.A), scale

    plant(DyLoRALayer, "first_ranks", wrong)
    with pytest.raises(FAILURE):
        test_ranks.test_a_step_sees_the_first_ranks_at_alpha_over_their_number(2, False)


def test_a_quantised_base_that_is_made_anew_when_it_is_loaded(
    plant: Callable, tiny_run: Callable, tmp_path: Path
) -> None:
    plant(LoftQ, "learned_state", residual.LoRA.learned_state)
    with pytest.raises(FAILURE):
        test_quantised.test_a_run_keeps_its_quantised_base(tiny_run, tmp_path)
