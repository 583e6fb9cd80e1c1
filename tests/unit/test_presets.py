"""The published settings, value for value as their papers and their authors' scripts print them."""

import math

import pytest

from analysis.papers import published
from experiments.results.result import Origin
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read
from experiments.settings.protocol import Clean, Paper
from variants.randlora import RandLoRA

TRAIN = {"examples": None, "warmup": 0.06, "schedule": "linear", "accumulate": 1}
PRINTED = published()


def preset(name: str) -> Run:
    return read(compose_config(f"experiment={name}", "data=local", "data.dir=FOLDER"))


def holds(settings: object, **values: object) -> None:
    """Compare fields of a section with values."""
    assert {name: getattr(settings, name) for name in values} == values


def score(run: Run, paper: str, label: str) -> float:
    """The one number, on our scale, of the table that a preset is the setting of."""
    own = PRINTED["settings"].map(lambda names: run.paper in names)
    of_paper = PRINTED[own & (PRINTED["paper"] == paper) & (PRINTED["label"] == label)]
    row = of_paper[(of_paper["task"] == run.task.name) & (of_paper["model"] == run.model.name)]
    return row["score"].item()


# Gao et al. 2024, Table 9 and the scripts, which agree on these tasks: rate, alpha, epochs, head's
# rate; and the score of Table 2.
FOURIERFT = {
    "sst2": (5e-2, 140.0, 40, 6e-3, 0.942),
    "cola": (1.2e-1, 49.0, 100, 8e-3, 0.638),
    "rte": (9e-2, 110.0, 90, 1.1e-2, 0.791),
    "stsb": (9e-2, 84.0, 60, 9e-3, 0.908),
}


@pytest.mark.parametrize("task", FOURIERFT)
def test_fourierft_is_as_its_paper_and_scripts_have_it(task: str) -> None:
    lr, alpha, epochs, head_lr, printed = FOURIERFT[task]
    run = preset(f"fourierft-{task}-roberta_base")
    holds(run.variant, lr=lr, alpha=alpha, n=1000, begin="normal", position_seed=2024)
    holds(run.variant, targets=["query", "value"])
    holds(run.train, epochs=epochs, head_lr=head_lr, batch_size=32, max_length=512, **TRAIN)
    holds(run.train, weight_decay=0.0, clip=None)
    assert (run.paper, type(run.protocol)) == ("fourierft_table9", Paper)
    assert score(run, "fourierft", "FourierFT") == pytest.approx(printed)


# Albert et al. 2025, Table 4.
RANDLORA = {
    "sst2": (0.922, 0.944),
    "mrpc": (0.880, 0.873),
    "cola": (0.594, 0.584),
    "qnli": (0.913, 0.927),
    "rte": (0.747, 0.715),
}


@pytest.mark.parametrize("task", RANDLORA)
def test_randlora_and_its_lora_are_as_the_script_has_them(task: str) -> None:
    randlora = preset(f"randlora-{task}-roberta_base")
    lora = preset(f"lora-{task}-roberta_base-randlora")
    for run in (randlora, lora):
        holds(run.train, epochs=10, batch_size=64, max_length=128, head_lr=1e-4, **TRAIN)
        holds(run.train, weight_decay=0.0, clip=1.0)
        holds(run.variant, lr=1e-4, targets=["query", "key", "value", "dense"])
        assert isinstance(run.protocol, Clean) and run.protocol.stage == "test"
    assert (randlora.paper, lora.paper) == ("randlora_code", "randlora_code_lora")
    assert isinstance(randlora.variant, RandLoRA) and randlora.variant.rank == 64
    # Theirs: alpha / r / sqrt(n), of alpha = 2 r and n = 768 / 64 products.
    assert randlora.variant.alpha / 64 == pytest.approx(2 / math.sqrt(768 / 64), rel=1e-4)
    holds(lora.variant, rank=4, alpha=8.0, dropout=0.0, rslora=False)
    printed = score(randlora, "randlora", "RandLoRA-64"), score(lora, "randlora", "LoRA-4")
    assert printed == pytest.approx(RANDLORA[task])


def test_vera_is_as_printed_and_has_no_papers_name() -> None:
    run = preset("vera-sst2-roberta_base")
    holds(run.variant, lr=4e-3, rank=1024, d_initial=0.1, targets=["query", "value"])
    holds(run.train, epochs=60, head_lr=4e-3, batch_size=64, max_length=512, **TRAIN)
    assert run.paper is None and isinstance(run.protocol, Paper)


def test_lora_by_its_code_is_what_another_paper_calls_adamw() -> None:
    run = preset("lora-e2e-gpt2_medium-code")
    row = PRINTED[(PRINTED["paper"] == "riemannian") & (PRINTED["label"] == "AdamW")]
    assert set(row["settings"]) == {(run.paper,)} and set(row["selection"]) == {"last step"}
    assert set(row["task"]) == {run.task.name}


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [(["seed=11111"], True), (["train.epochs=1"], False), (["task=mrpc"], False)],
)
def test_a_preset_that_builds_on_another_keeps_its_name_alike(
    overrides: list[str], kept: bool
) -> None:
    assert Origin({}, ["experiment=fourierft-rte-roberta_base", *overrides]).keeps_paper() is kept
