"""How many numbers each method trains in RoBERTa-base, by its formula and by counting."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn as nn
from conftest import VARIANTS
from transformers import RobertaConfig, RobertaModel

from experiments.running.job import prepare_run
from experiments.settings.compose import compose_config
from experiments.settings.sections import build
from experiments.study import match
from variants.base import Variant

D, MATRICES = 768, 24  # query and value of twelve blocks
SIDES = 2 * D
ALL = 12 * (4 * D * D + 2 * 4 * D * D)  # weights of all linear layers
BOTH = 12 * (4 * 2 * D + 2 * 5 * D)  # d_in + d_out over all linear layers
BIASES = 12 * (4 * D + 4 * D + D + 2 * D) + D  # of linear layers and norms
LORA = MATRICES * 8 * SIDES
# From the settings of each YAML, for the targets it gives; printed counts are marked.
FORMULAS = {
    "lora": LORA, "rslora": LORA, "lora_plus": LORA, "pissa": LORA, "milora": LORA, "olora": LORA,
    "lora_ga": LORA, "lora_one": LORA, "corda": LORA, "eva": LORA, "riemannian": LORA,
    "lora_pro": LORA, "lora_rite": LORA, "dylora": LORA, "delta_lora": LORA, "lora_drop": LORA,
    "lora_fa": MATRICES * 8 * D,
    "dora": MATRICES * (8 * SIDES + D),
    "adalora": MATRICES * 12 * (SIDES + 1),
    "sora": MATRICES * 8 * (SIDES + 1),
    "vera": MATRICES * (256 + D),
    "lora_xs": MATRICES * 16**2,
    "ia3": 12 * (D + D + 4 * D),  # 55,296, as printed
    "hira": LORA,
    "loha": MATRICES * 2 * 4 * SIDES,
    "lokr": MATRICES * (24 * 24 + 8 * (32 + 32)),  # 26,112
    "miss": MATRICES * 16 * D,
    "road": MATRICES * D,
    "delora": MATRICES * (8 * SIDES + 1),
    "hra": MATRICES * 8 * D,
    "oft": MATRICES * D * (16 - 1) // 2,
    "boft": MATRICES * (2 * D * (8 - 1) // 2 + D),
    "fourierft": MATRICES * 1000,  # 24,000, as printed
    "waveft": MATRICES * 1000,
    "randlora": MATRICES * (64 * 12 + 12 * D),  # 239,616
    "mora": MATRICES * 110**2,  # 290,400
    "vb_lora": 90 * 256 + MATRICES * 90 * (4 * 3 + 3 * 4),  # 74,880
    "shira": LORA,
    "svft": MATRICES * D,
    "gralora": LORA,
    "abba": MATRICES * (4 + 4) * SIDES,
    "qlora": 8 * BOTH,
    "qdora": 8 * BOTH + 12 * (4 * D + 4 * D + D),
    "loftq": 16 * BOTH,
    "qa_lora": MATRICES * 8 * (D // 32 + D),
    "bitfit": BIASES,
    "head_only": 0,
}  # fmt: skip
# What looks at values of a weight cannot be built without them.
LOOKING = {"milora", "loftq", "qlora", "qdora", "qa_lora"}


def roberta_base(device: str) -> RobertaModel:
    with torch.device(device):
        return RobertaModel(RobertaConfig(vocab_size=50265, max_position_embeddings=514))


def method(name: str) -> Variant:
    return build("variant", compose_config(f"variant={name}", "model=roberta_base").variant)


def trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in LOOKING])
def test_the_count_is_that_of_the_formula(name: str) -> None:
    model = roberta_base("meta")
    method(name).adapt(model)
    if name == "bitfit":  # transformers' model has no pooler here, and RoBERTa one in its code
        assert trained(model) in (BIASES, BIASES + D)
    else:
        said = f"{name} trains {trained(model):,} numbers, and its formula says {FORMULAS[name]:,}."
        assert trained(model) == FORMULAS[name], said


@pytest.mark.parametrize("name", sorted(LOOKING))
def test_the_count_of_one_block_is_a_twelfth(name: str) -> None:
    config = RobertaConfig(vocab_size=8, num_hidden_layers=1, max_position_embeddings=8)
    torch.manual_seed(0)
    model = RobertaModel(config, add_pooling_layer=False)
    variant = method(name)
    if name == "loftq":
        variant = replace(variant, iterations=1)
    variant.adapt(model)
    assert trained(model) * 12 == FORMULAS[name]


PRINTED: list[tuple[str, dict[str, Any], int]] = [
    # On all six kinds of matrices, whose counts are printed in papers.
    ("lora", {"rank": 8}, 1_327_104),
    ("dora", {"rank": 8}, 1_410_048),
    ("lora_xs", {"rank": 136}, 1_331_712),
    ("oft", {"block": 32}, 1_285_632),
    ("hra", {"rank": 8}, 663_552),
    ("road", {}, 82_944),
    ("randlora", {"rank": 64}, 718_848),
]


@pytest.mark.parametrize(("name", "settings", "count"), PRINTED)
def test_printed_counts_are_found(name: str, settings: dict[str, Any], count: int) -> None:
    model = roberta_base("meta")
    targets = ["query", "key", "value", r"encoder.*\.dense"]
    replace(method(name), targets=targets, **settings).adapt(model)
    assert trained(model) == count


@pytest.mark.parametrize(("name", "multiple"), [("hra", 2), ("gralora", 2), ("miss", 1)])
def test_a_matched_rank_trains_as_many_and_is_one_the_method_takes(
    name: str, multiple: int
) -> None:
    lora, other = (compose_config(f"variant={n}", "model=mini_roberta") for n in ("lora", name))
    rank = match.match_rank(other, lora)
    assert rank is not None and rank % multiple == 0
    ratio = match.count_trained(other, rank) / match.count_trained(lora)
    assert ratio == pytest.approx(1.0, rel=0.1)


def test_every_method_has_a_count() -> None:
    missing = set(VARIANTS) - set(FORMULAS) - {"full", "last_k"}
    assert not missing, (
        f"FORMULAS lacks {', '.join(missing)}: how many numbers does the paper's formula train in "
        "RoBERTa-base, with the values of the YAML?"
    )
    assert set(FORMULAS) <= set(VARIANTS)


def test_a_result_says_the_same(tiny_run: Callable) -> None:
    run = tiny_run("ia3")
    job = prepare_run(run, run.task.load(run.data))
    assert trained(job.loaded.model.backbone) == 2 * (32 + 32 + 64)
