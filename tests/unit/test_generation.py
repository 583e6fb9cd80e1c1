"""Greedy and beam search against a plain reference, and in batches against one by one."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, Case
from passes import backbone_of
from transformers import PreTrainedModel

from experiments.families.base import families
from experiments.models import greedy
from experiments.models.decoding import Decoding
from experiments.models.generation import generate, language_model
from experiments.models.loading import load_backbone, read_config, read_tokenizer
from experiments.tasks.continued import end_of

pytestmark = pytest.mark.thorough

SHIPPED = ROOT / "experiments/mini/weights/mini_gpt2"
PROMPTS = [[5, 9, 3], [7, 2, 11, 4, 8, 6], [12], [3, 3, 5, 9]]
PLAIN = Decoding(
    beams=1, length_penalty=1.0, no_repeat_ngram=0, max_tokens=7, end=[], batch_size=4
)  # fmt: skip


@pytest.fixture
def backbone(case: Callable[..., Case]) -> PreTrainedModel:
    """A tiny GPT-2 whose predictions are far enough apart for ends to come early at times."""
    model = case("lora", family="gpt2").model.backbone
    with torch.no_grad():
        model.ln_f.weight *= 4.0
    return model


@torch.no_grad()
def log_probabilities(backbone: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    hidden = backbone(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1]
    return torch.log_softmax(hidden @ backbone.wte.weight.T, dim=-1)


def repeats(tokens: list[int], size: int) -> bool:
    """Whether the last n-gram occurred before."""
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return size > 0 and len(grams) > 0 and grams[-1] in grams[:-1]


def reference(backbone: PreTrainedModel, prompt: list[int], how: Decoding, end: list[int]) -> list:
    """Beam search with no cache and no batch: every step, over all continuations of every beam."""
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for step in range(1, how.max_tokens + 1):
        continued = []
        for score, tokens in beams:
            scores = log_probabilities(backbone, prompt + tokens).tolist()
            for token, own in enumerate(scores):
                if not repeats([*tokens, token], how.no_repeat_ngram):
                    continued.append((score + own, [*tokens, token]))
        continued.sort(key=lambda item: -item[0])
        for score, tokens in continued[: how.beams]:
            if tokens[-1] in end or step == how.max_tokens:
                finished.append((score / step**how.length_penalty, tokens))
        if how.beams == 1 and finished:
            break  # greedy
        beams = [item for item in continued if item[1][-1] not in end][: how.beams]
    best = max(finished, key=lambda item: item[0])[1]
    return best[:-1] if best[-1] in end else best


CAUSAL = [
    (name, kind)
    for name, family in families().items()
    if family.packed and family.causal
    for kind in family.model_types
]
CASES = {
    "greedy": {},
    "beams": {"beams": 4},
    "long": {"beams": 4, "length_penalty": 2.0},
    "short": {"beams": 4, "length_penalty": -1.0},
    "no bigram twice": {"beams": 3, "no_repeat_ngram": 2},
    "no token twice": {"beams": 1, "no_repeat_ngram": 1},
}


def ends(backbone: PreTrainedModel, how: Decoding) -> list[int]:
    """Two tokens that two of the texts come to, so that these end there."""
    free = generate(backbone, PROMPTS, how, [0])
    return [free[0][4], free[1][2]]


@pytest.mark.parametrize("kind", CASES)
def test_a_search_finds_what_the_plain_reference_finds(
    backbone: PreTrainedModel, kind: str
) -> None:
    how = replace(PLAIN, **CASES[kind])
    end = ends(backbone, how)
    found = generate(backbone, PROMPTS, how, end)
    expected = [reference(backbone, prompt, how, end) for prompt in PROMPTS]
    assert found == expected
    if kind == "greedy":
        assert any(len(tokens) < how.max_tokens for tokens in found), "no text ended"


def test_the_published_search_finds_what_the_plain_reference_finds() -> None:
    backbone = load_backbone(SHIPPED, read_config(SHIPPED))
    tokenizer = read_tokenizer(SHIPPED, backbone.config.vocab_size)
    how = Decoding(
        beams=10, length_penalty=0.9, no_repeat_ngram=4, max_tokens=12, end=[], batch_size=3
    )
    texts = ["The Heron is a", "Adam helped", "In the old town, The"]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    end = [*how.end_tokens(tokenizer), *tokenizer(".")["input_ids"]]
    found = generate(backbone, prompts, how, end)
    assert found == [reference(backbone, prompt, how, end) for prompt in prompts]


@pytest.mark.parametrize("kind", CASES)
def test_a_batch_gives_the_texts_of_one_by_one(backbone: PreTrainedModel, kind: str) -> None:
    how = replace(PLAIN, **CASES[kind])
    end = ends(backbone, how)
    alone = generate(backbone, PROMPTS, replace(how, batch_size=1), end)
    assert generate(backbone, PROMPTS, replace(how, batch_size=3), end) == alone


@pytest.mark.parametrize("family, kind", CAUSAL)
def test_packed_search_finds_the_texts_of_transformers(
    family: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_of(families()[family].tiny_config(model_type=kind), double=False).eval()
    monkeypatch.setattr(greedy, "FEWER", 1)  # so that texts are left out
    prompts = [[9, 8, 7], [5], [6, 5, 9, 11, 12, 3], [21, 33]]
    how = replace(PLAIN, batch_size=len(prompts))
    free = generate(backbone, prompts, how, [0])
    end = [free[0][1], free[2][3]]
    assert generate(backbone, prompts, how, [0], "transformers") == free
    found = generate(backbone, prompts, how, end)
    assert found == generate(backbone, prompts, how, end, "transformers")
    assert len({len(tokens) for tokens in found}) > 1


def test_the_blocking_of_ngrams_looks_at_the_generated_part_only(
    backbone: PreTrainedModel,
) -> None:
    free = generate(backbone, PROMPTS[:1], PLAIN, [0])[0]
    prompt = [*PROMPTS[0], *free[:2]]  # what will come stands in the prompt already
    how = replace(PLAIN, no_repeat_ngram=1)
    found = generate(backbone, [prompt], how, [0])[0]
    assert found == reference(backbone, prompt, how, [0])
    assert set(found) & set(prompt)


def test_the_language_model_shares_the_backbones_table(backbone: PreTrainedModel) -> None:
    model = language_model(backbone)
    assert model.lm_head.weight is backbone.wte.weight
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_generation_works_with_adapters_in_both_precisions(
    case: Callable[..., Case], precision: str
) -> None:
    for variant in ("lora", "full"):
        made = case(variant, f"train.precision={precision}", family="gpt2")
        made.run.variant.adapt(made.model.backbone)
        assert all(generate(made.model.backbone, PROMPTS, PLAIN, [0]))


def test_a_prompt_too_long_for_the_model_is_an_error(backbone: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match=r"A prompt has 139 tokens, .* positions for 133"):
        generate(backbone, [[1] * 139], PLAIN, [0])


@pytest.mark.parametrize("setting", ["beams", "max_tokens", "batch_size"])
def test_a_setting_of_zero_is_an_error(setting: str) -> None:
    with pytest.raises(ValueError, match=f"decoding.{setting} must be at least 1, got 0"):
        replace(PLAIN, **{setting: 0})


def test_an_end_of_several_tokens_is_an_error(case: Callable, tiny: Callable) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny("gpt2"))
    word = tokenizer.convert_ids_to_tokens([5])[0]
    assert replace(PLAIN, end=[word]).end_tokens(tokenizer) == [tokenizer.eos_token_id, 5]
    with pytest.raises(ValueError, match="must be one token, and is 2"):
        replace(PLAIN, end=[f"{word} {word}"]).end_tokens(tokenizer)


def test_a_tokenizer_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no end token"):
        end_of(SimpleNamespace(eos_token_id=None))  # type: ignore[arg-type]
