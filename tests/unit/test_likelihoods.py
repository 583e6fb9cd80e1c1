"""Losses of texts that share prompts, against a pass over every text with a prompt of its own."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from passes import backbone_of

from experiments.data.batches import PromptedTexts, flat
from experiments.families.base import families, family_of
from experiments.models import inference, likelihoods
from experiments.models.model import LanguageModel

pytestmark = pytest.mark.thorough

A, B, C = [9, 8, 7], [5], [6, 5, 9, 11, 12, 3]
PAIRS = [
    (A, [4, 2]), (B, [4, 2, 30, 31]), (A, [7]), (C, [9]), (A, [4, 2]), (B, [8, 3]), (C, [9, 9, 5]),
]  # fmt: skip
CAUSAL = [
    kind for family in families().values() if family.packed and family.causal
    for kind in family.model_types
]  # fmt: skip


def texts_of(pairs: list[tuple[list[int], list[int]]]) -> PromptedTexts:
    ids = [[*prompt, *text] for prompt, text in pairs]
    return PromptedTexts(
        {"input_ids": flat(ids)}, np.array([len(one) for one in ids]), None, {"input_ids": 1}, 0,
        np.array([len(prompt) for prompt, _ in pairs]),
    )  # fmt: skip


def batches_of(texts: PromptedTexts, size: int) -> list[np.ndarray]:
    return list(likelihoods.batches(likelihoods.number_prompts(texts), texts.lengths, size))


def model_of(kind: str, double: bool = True, multiple: int = 1) -> LanguageModel:
    (family,) = (one for one in families().values() if kind in one.model_types)
    model = LanguageModel(backbone_of(family.tiny_config(model_type=kind), double=double))
    model.engine = type(model.engine)(model.engine.name, multiple=multiple)
    return model


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many tokens each pass computes."""
    counts: list[int] = []
    family = family_of(model_of("llama").backbone.config)
    embed = family.embed

    def count(backbone, columns, layout):
        counts.append(len(columns["input_ids"]))
        return embed(backbone, columns, layout)

    monkeypatch.setattr(type(family), "embed", lambda self, *args: count(*args))
    yield counts


@pytest.mark.parametrize("multiple", [1, 16])
@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("kind", CAUSAL)
def test_losses_are_those_of_each_text_alone(kind: str, size: int, multiple: int) -> None:
    model, texts = model_of(kind, multiple=multiple), texts_of(PAIRS)
    expected = inference.outputs(model, texts, 1)
    np.testing.assert_allclose(likelihoods.losses(model, texts, size), expected, rtol=1e-9)


def test_a_prompt_is_computed_once_for_all_of_its_texts(seen: list[int]) -> None:
    likelihoods.losses(model_of("llama"), texts_of(PAIRS), 100)
    targets = sum(len(text) for _, text in PAIRS)
    assert seen == [targets + len(A) + len(B) + len(C)]


def test_texts_of_one_prompt_stay_in_one_batch(seen: list[int]) -> None:
    texts = texts_of(PAIRS)
    batches = [rows.tolist() for rows in batches_of(texts, 3)]
    assert sorted(map(sorted, batches)) == [[0, 2, 3, 4, 6], [1, 5]]
    likelihoods.losses(model_of("llama"), texts, 3)
    assert seen == [len(A) + 5 + len(C) + 4, len(B) + 6]


def test_a_prompt_of_many_texts_makes_no_large_batch() -> None:
    texts = texts_of([(A, [4]) for _ in range(7)])
    assert [len(rows) for rows in batches_of(texts, 3)] == [3, 3, 1]


def test_bfloat16_is_as_near_as_a_pass_over_each_text() -> None:
    exact = inference.outputs(model_of("llama"), texts_of(PAIRS), 1)
    model = model_of("llama", double=False).to(torch.bfloat16)
    shared, alone = (f(model, texts_of(PAIRS), 1) for f in (likelihoods.losses, inference.outputs))
    np.testing.assert_allclose(shared, exact, rtol=0.02)
    np.testing.assert_allclose(alone, exact, rtol=0.02)


def test_what_transformers_runs_has_a_prompt_for_each_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, texts = model_of("llama"), texts_of(PAIRS)
    expected = likelihoods.losses(model, texts, 100)
    model.engine = type(model.engine)("transformers")
    monkeypatch.setattr(likelihoods, "weigh", None)
    np.testing.assert_allclose(likelihoods.losses(model, texts, 100), expected, rtol=1e-9)


def test_no_texts_have_no_losses() -> None:
    empty = PromptedTexts(
        {"input_ids": np.zeros(0, np.int32)}, np.zeros(0, np.int64), None, {"input_ids": 1}, 0,
        np.zeros(0, np.int64),
    )  # fmt: skip
    assert likelihoods.losses(model_of("llama"), empty, 4).shape == (0, 2)
