"""Models that are not ours: what is adapted of them, kept with the adapter, or refused."""

import warnings
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
import torch.nn as nn
from modules import (
    ADAPTERS,
    DROPPING,
    METHODS,
    OWN,
    QUANTISED,
    in_turn,
    method,
    nudge,
    start_within,
    steps,
)
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    CLIPConfig,
    GPT2Config,
    MixtralConfig,
    PreTrainedConfig,
    T5Config,
    WhisperConfig,
)

from variants.base import AdapterLayer, Progress, adapter_layers, merge
from variants.bitfit import is_bias
from variants.last_k import find_stacks

pytestmark = pytest.mark.thorough

D = 16


class Classifier(nn.Module):
    """A model with a head inside of it, as ...ForSequenceClassification."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D))
        self.norm = nn.LayerNorm(D)
        self.classifier = nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.norm(self.body(x)))


def batch() -> Tensor:
    return torch.randn(8, D)


def fingerprint(model: nn.Module) -> list[tuple[str, bool, int, bool]]:
    """Names, flags and identities: all that a failed change must leave alone."""
    parameters = [(n, p.requires_grad, id(p), True) for n, p in model.named_parameters()]
    return parameters + [(n, m.training, id(m), False) for n, m in model.named_modules()]


@pytest.mark.parametrize("name", METHODS)
def test_a_head_that_is_unfrozen_later_is_trained_and_saved(name: str) -> None:
    torch.manual_seed(0)
    bare = Classifier()
    model, variant = deepcopy(bare), method(name, ["0", "2"])
    variant.adapt(model) if name != "last_k" else model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    groups = variant.param_groups(model, 1e-3, 0.1)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(trained)
    before = model.classifier.weight.detach().clone()
    steps(model, variant, batch)
    assert not torch.equal(before, model.classifier.weight)
    state = {n: t.clone() for n, t in variant.learned_state(model).items()}
    assert {"classifier.weight", "classifier.bias"} <= state.keys()
    again = deepcopy(bare)
    variant.adapt(again) if name != "last_k" else again.requires_grad_(False)
    again.classifier.requires_grad_(True)
    variant.load_state(again, state)
    x = batch()
    assert torch.equal(again.eval()(x), model(x))


@pytest.mark.parametrize(("first", "second"), in_turn(ADAPTERS, METHODS))
def test_a_model_that_is_adapted_is_refused_by_name(first: str, second: str) -> None:
    model = Classifier()
    method(first, "0").adapt(model)
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"adapted already: body\.0 is a \w+Layer\. Merge"):
        method(second, "2").adapt(model)
    assert fingerprint(model) == before
    merge(model)
    if isinstance(model.body[0], nn.Linear):  # and not a layer of codes
        method("lora", "0").adapt(model)


class Breaks(AdapterLayer):
    count = 0

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        Breaks.count += 1
        if Breaks.count == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", METHODS)
def test_what_fails_half_way_leaves_the_model_as_it_was(name: str) -> None:
    class Failing(type(method(name))):
        def adapt(self, model: nn.Module) -> None:
            super().adapt(model)
            assert any(not p.requires_grad for p in model.parameters()) or name in (
                "full",
                "bitfit",
            )
            model.eval()
            model.half()
            raise RuntimeError("no more memory")

    model = Classifier()
    model.norm.requires_grad_(False)
    before, values = fingerprint(model), deepcopy(model.state_dict())
    settings = vars(method(name, ["0", "2"])) if name != "last_k" else {"lr": 0.1, "k": 3}
    if name == "last_k":
        model.blocks = nn.ModuleList([nn.Linear(2, 2)])
        before, values = fingerprint(model), deepcopy(model.state_dict())
        with pytest.raises(ValueError, match="k must lie in 1 to 1"):
            type(method(name))(**settings).adapt(model)
    else:
        with pytest.raises(RuntimeError, match="no more memory"):
            Failing(**settings).adapt(model)
    assert fingerprint(model) == before
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, values[key]) and tensor.dtype == values[key].dtype


def test_an_interruption_leaves_the_model_as_it_was_too() -> None:
    from variants.base import Variant, replace_linears

    class Interrupted(Variant):
        def adapt(self, model: nn.Module) -> None:
            model.requires_grad_(False)
            replace_linears(model, ["0", "2"], Breaks)

    model = Classifier()
    before = fingerprint(model)
    with pytest.raises(KeyboardInterrupt):
        Interrupted(lr=1.0).adapt(model)
    assert fingerprint(model) == before


class Moving(nn.Module):
    """A module of one's own whose buffers move in training."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("scratch", torch.zeros(D), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(dim=0), 0.5)
        return x - self.mean


def with_buffers() -> nn.Sequential:
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(D, D))
    return nn.Sequential(
        nn.Linear(D, D), nn.BatchNorm1d(D), spectral, Moving(), nn.Linear(D, D)
    )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in METHODS if n != "last_k"])
def test_buffers_that_move_in_training_are_saved(name: str) -> None:
    torch.manual_seed(0)
    bare = with_buffers()
    model, variant = deepcopy(bare), method(name, ["0", "4"])
    variant.adapt(model)
    if name == "head_only":
        model.train()
        for _ in range(3):
            model(batch())
        model.eval()
    else:
        steps(model, variant, batch)
    state = {n: t.clone() for n, t in variant.learned_state(model).items()}
    assert {"1.running_mean", "1.num_batches_tracked", "3.mean"} <= state.keys()
    assert "3.scratch" not in state
    of_base = {n for n in state if n.startswith(("0.base.", "4.base."))} - {
        "0.base.bias",
        "4.base.bias",
    }
    # Only codes that do not follow from W0 are part of what was learned.
    assert not of_base or name == "loftq" or name in OWN
    again = deepcopy(bare)
    torch.manual_seed(5)
    variant.adapt(again)
    variant.load_state(again, state)
    x = batch()
    assert_close(again.eval()(x), model(x), rtol=0, atol=0)


def bf16() -> nn.Module:
    return nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(D, D), nn.Linear(D, D)])}).bfloat16()


@pytest.mark.parametrize("name", ["bitfit", "full", "last_k"])
def test_what_would_train_in_bfloat16_is_refused(name: str) -> None:
    model = bf16()
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"^blocks\.\d\.\w+ would train in torch\.bfloat16"):
        method(name).adapt(model)
    assert fingerprint(model) == before


@pytest.mark.parametrize("name", METHODS)
def test_what_is_rounded_after_adapting_trains_in_float32_or_not_at_all(name: str) -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(D, D), nn.Linear(D, D)])})
    variant = method(name, ["0", "1"])
    variant.adapt(model)
    model.bfloat16()
    if name in OWN:
        with pytest.raises(ValueError, match=r"^blocks\.\d\.\w+ would train in torch\.bfloat16"):
            variant.param_groups(model, 1e-3, 0.0)
    else:
        groups = variant.param_groups(model, 1e-3, 0.0)
        assert all(p.dtype == torch.float32 for g in groups for p in g["params"])


TINY = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SPEECH = {
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16, "encoder_layers": 3, "decoder_layers": 2, "d_model": D,
}  # fmt: skip
SMALL_ENCODER = {
    "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16
}  # fmt: skip


def build(config: PreTrainedConfig) -> nn.Module:
    torch.manual_seed(0)
    return AutoModel.from_config(config).eval()


def bart() -> nn.Module:
    return build(BartConfig(**TINY, **SPEECH, max_position_embeddings=32))


def t5() -> nn.Module:
    return build(
        T5Config(vocab_size=50, d_model=D, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
                 decoder_start_token_id=0)
    )  # fmt: skip


def whisper() -> nn.Module:
    return build(WhisperConfig(**TINY, **SPEECH, num_mel_bins=8, max_source_positions=16,
                               max_target_positions=16, decoder_start_token_id=1))  # fmt: skip


def clip() -> nn.Module:
    vision = {**SMALL_ENCODER, "image_size": 16, "patch_size": 8, "num_hidden_layers": 3}
    text = {**SMALL_ENCODER, "vocab_size": 50, "max_position_embeddings": 16}
    return build(CLIPConfig(text_config=text, vision_config=vision, projection_dim=D))


def mixtral() -> nn.Module:
    return build(MixtralConfig(**TINY, **SMALL_ENCODER, num_key_value_heads=2, num_local_experts=4))


@pytest.mark.parametrize(
    ("family", "stack", "other"),
    [(bart, "decoder.layers", "encoder.layers"), (t5, "decoder.block", "encoder.block"),
     (whisper, "encoder.layers", "decoder.layers"),
     (clip, "text_model.encoder.layers", "vision_model.encoder.layers")],
)  # fmt: skip
def test_of_several_stacks_of_blocks_the_user_names_one(
    family: Callable[[], nn.Module], stack: str, other: str
) -> None:
    model = family()
    with pytest.raises(ValueError, match=r"several lists of blocks: .*; name one by `blocks`"):
        method("last_k").adapt(model)
    with pytest.raises(ValueError, match=r"blocks='layerz' must name a stack, got: none"):
        method("last_k", blocks="layerz").adapt(model)
    method("last_k", blocks=stack).adapt(model)
    blocks = model.get_submodule(stack)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in blocks[-1].parameters()}
    assert not any(p.requires_grad for p in model.get_submodule(other).parameters())


def test_experts_are_no_blocks() -> None:
    block = nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(D, D) for _ in range(8))})
    model = nn.ModuleDict({"layers": nn.ModuleList([block, deepcopy(block)])})
    assert list(find_stacks(model)) == ["layers"]
    method("last_k").adapt(model)
    assert not model["layers"][0]["experts"][7].weight.requires_grad


class SharedExpert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Module()
        self.experts.down_proj = nn.Parameter(torch.randn(4, D, D))
        self.shared_expert = nn.ModuleDict(
            {"down_proj": nn.Linear(D, D), "up_proj": nn.Linear(D, D)}
        )


@pytest.mark.parametrize("name", ADAPTERS)
def test_experts_in_one_parameter_are_named_where_a_target_means_them_too(name: str) -> None:
    said = r"^experts\.down_proj \[4, 16, 16\] hold the weights of several matrices.* not adapted"
    for target in ("down_proj", "all-linear"):
        with pytest.warns(UserWarning, match=said):
            method(name, target).adapt(SharedExpert())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method(name, "up_proj").adapt(SharedExpert())
    with pytest.raises(ValueError, match=r"'experts.down_proj' names the parameter experts\.down"):
        method(name, "experts.down_proj").adapt(SharedExpert())


def test_of_a_mixture_of_experts_it_is_said_what_stays() -> None:
    model = mixtral()
    with pytest.warns(UserWarning, match=r"experts\.\w+ \[4, \d+, \d+\] and 3 more hold"):
        method("lora", "all-linear").adapt(model)
    assert {n.rpartition(".")[2] for n, _ in adapter_layers(model)} == {
        "q_proj", "k_proj", "v_proj", "o_proj"
    }  # fmt: skip


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        linear = nn.Linear(D, D)
        self.encoder = nn.ModuleDict({"proj": linear, "own": nn.Linear(D, D)})
        self.decoder = nn.ModuleDict({"project": linear})

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder["project"](self.encoder["own"](self.encoder["proj"](x)))


@pytest.mark.parametrize("target", ["proj", "decoder.project", "project"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_layer_with_two_parents_is_adapted_at_both(name: str, target: str) -> None:
    torch.manual_seed(0)
    model = Shared()
    method(name, target).adapt(model)
    assert model.encoder["proj"] is model.decoder["project"]
    assert isinstance(model.encoder["proj"], AdapterLayer)
    nudge(model.eval())
    x = batch()
    y = model(x)
    variant = method(name, target)
    state = {n: t.clone() for n, t in variant.learned_state(model).items()}
    merge(model)
    assert model.encoder["proj"] is model.decoder["project"]
    assert not isinstance(model.encoder["proj"], AdapterLayer)
    assert_close(model(x), y, rtol=1e-4, atol=1e-5)
    torch.manual_seed(0)
    again = Shared()
    variant.adapt(again)
    variant.load_state(again, state)
    assert_close(again.eval()(x), y, rtol=0, atol=0)


class Int8(nn.Linear):
    """As libraries of few bits have it: codes under the name of the weight."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out)
        self.weight = nn.Parameter((self.weight * 500).to(torch.int8), requires_grad=False)


class Packed(nn.Linear):
    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out)
        self.weight = nn.Parameter(torch.randn(d_in * d_out // 2, 1))


class Eighths(nn.Linear):
    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out)
        self.weight = nn.Parameter(self.weight.to(torch.float8_e4m3fn), requires_grad=False)


@pytest.mark.parametrize("kind", [Int8, Packed, Eighths])
@pytest.mark.parametrize("name", ADAPTERS)
def test_codes_are_not_read_as_weights(name: str, kind: type[nn.Linear]) -> None:
    model = nn.Sequential(kind(D, D))
    with pytest.raises(ValueError, match=rf"^0 is a {kind.__name__} with a weight .* codes"):
        method(name, "0").adapt(model)


def test_8_bit_linears_of_bitsandbytes_are_refused() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    linear = bnb.nn.Linear8bitLt(D, D, has_fp16_weights=False)
    linear.weight.data = (linear.weight.data * 500).to(torch.int8)
    with pytest.raises(ValueError, match=r"^0 is a Linear8bitLt with a weight .* codes"):
        method("lora", "0").adapt(nn.Sequential(linear))


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_layer_without_a_weight_yet_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^0\.weight has no shape before its first input"):
        method(name, "0").adapt(nn.Sequential(nn.LazyLinear(4)))


def test_biases_of_every_kind_train() -> None:
    model = nn.ModuleDict({
        "lstm": nn.LSTM(D, D, num_layers=2, bidirectional=True),
        "attention": nn.MultiheadAttention(D, 2, add_bias_kv=True),
        "gru": nn.GRUCell(D, D),
        "relative_attention_bias": nn.Embedding(8, 2),
    })  # fmt: skip
    method("bitfit").adapt(model)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {"lstm.bias_ih_l0", "lstm.bias_hh_l1_reverse", "gru.bias_ih", "attention.bias_k",
            "attention.in_proj_bias", "attention.out_proj.bias"} <= trained  # fmt: skip
    assert not any("weight" in name for name in trained)
    assert is_bias("bert.q_bias") and not is_bias("head.debiased")


def test_nothing_is_loaded_onto_the_meta_device_in_silence() -> None:
    variant, model = method("lora", "0"), nn.Sequential(nn.Linear(D, D))
    variant.adapt(model)
    state = {n: t.clone() for n, t in variant.learned_state(model).items()}
    with torch.device("meta"):
        bare = nn.Sequential(nn.Linear(D, D))
    variant.adapt(bare)
    with pytest.raises(ValueError, match=r"Tensor '0\.A' of the model is on the meta device"):
        variant.load_state(bare, state)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", [n for n in ADAPTERS if hasattr(method(n), "alpha")])
def test_a_scale_that_no_adapter_can_have_is_refused(name: str, alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"^alpha must be a positive number, got {alpha}\."):
        method(name, "0", alpha=alpha)


def test_vectors_that_could_never_train_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^d_initial must not be 0"):
        method("vera", "0", d_initial=0.0)


@pytest.mark.parametrize("name", ["qlora"])
def test_an_adapter_of_a_quantised_base_is_not_exported_as_one_of_the_full_base(name: str) -> None:
    model = nn.Sequential(nn.Linear(D, D))
    variant = method(name, "0")
    variant.adapt(model)
    with pytest.raises(ValueError, match=r"^0 has a NF4Linear below its adapter.* merge"):
        variant.to_peft(model)


def gpt2() -> nn.Module:
    return build(GPT2Config(vocab_size=50, n_embd=D, n_layer=2, n_head=2, n_positions=32))


@pytest.mark.parametrize("name", ADAPTERS)
def test_gpt2_is_adapted_as_transformers_gives_it(name: str) -> None:
    model = gpt2()
    ids = torch.randint(0, 50, (2, 7))
    before = model(ids).last_hidden_state
    variant = method(name, "all-linear")
    if name in QUANTISED:
        said = r"^\w+ adapts nn\.Linear only, and h\.0\.attn\.c_attn is a Conv1D; .* '!h\.0\.attn"
        with pytest.raises(ValueError, match=said):
            variant.adapt(model)
        return
    variant.adapt(model)
    names = {n.split(".", 2)[2] for n, _ in adapter_layers(model)}
    assert names == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    within = start_within(name, {"rtol": 1e-4, "atol": 1e-5}, 0.05)
    assert_close(model(ids).last_hidden_state, before, **within)
    nudge(model)
    after = model(ids).last_hidden_state
    after.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    state = model.state_dict()
    merge(model)
    assert_close(model(ids).last_hidden_state, after, rtol=1e-4, atol=1e-4)
    plain = gpt2()
    plain.load_state_dict(model.state_dict())  # names, shapes and layout are transformers'
    assert_close(plain(ids).last_hidden_state, after, rtol=1e-4, atol=1e-4)
    assert state.keys() != plain.state_dict().keys()


def test_a_conv1d_is_the_linear_layer_of_its_turned_weight() -> None:
    model = gpt2()
    method("dora", "c_attn").adapt(model)
    nudge(model)
    for _, layer in adapter_layers(model):
        assert layer.W0.shape == (3 * D, D) and layer.weight.shape == (D, 3 * D)
        x = torch.randn(3, D)
        assert_close(layer(x), x @ layer.weight + layer.bias, rtol=1e-4, atol=1e-5)


def test_a_method_names_the_layer_that_it_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"^body\.0 cannot be adapted\. rank must be at most 16"):
        method("pissa", "body.0", rank=17).adapt(Classifier())


def test_bert_says_what_it_has_in_the_place_of_a_wrong_name() -> None:
    model = build(BertConfig(**TINY, **SMALL_ENCODER))
    for target, said in (
        (
            "qury",
            r"No linear layer is named 'qury'\. Did you mean 'query'\? This model has: den",
        ),
        (
            "attention.self",
            r"'attention\.self' names encoder\.layer\.0\.attention\.self, a Bert",
        ),
        (r"layer\.(\d", r"The target 'layer\\\.\(\\d' is no regular expression: missing"),
    ):
        with pytest.raises(ValueError, match=f"^{said}"):
            method("lora", target).adapt(model)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_put_in_has_the_mode_of_what_was_there(name: str, training: bool) -> None:
    model = Classifier().train(training)
    model.body[2].eval()
    drops = name in DROPPING
    method(name, ["0", "2"], **({"dropout": 0.5} if drops else {})).adapt(model)
    nudge(model)
    others = [m for n, m in model.named_modules() if not n.startswith("body.2")]
    assert all(module.training == training for module in others)
    assert not any(m.training for m in model.body[2].modules())
    x = batch()
    assert torch.equal(model(x), model(x)) == (not training or not drops)
    merge(model)
    assert model.body[0].training == training and not model.body[2].training


class Routed(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = super().forward(x)
        return y, y.softmax(dim=-1)


@pytest.mark.parametrize("name", ADAPTERS)
def test_words_leave_out_what_is_more_than_its_weight_and_say_so(name: str) -> None:
    model = nn.ModuleDict({"attention": nn.ModuleDict({"q": nn.Linear(D, D), "r": Routed(D, D)})})
    for word in ("all-linear", "attention"):
        with pytest.warns(UserWarning, match=rf"^'{word}' leaves out attention\.r \(Routed\)"):
            method(name, word).adapt(tried := deepcopy(model))
        assert [n for n, _ in adapter_layers(tried)] == ["attention.q"]
    bare = nn.Sequential(Routed(D, D))
    with pytest.raises(ValueError, match=r"^This model has no layers that 'all-linear' means"):
        method(name, "all-linear").adapt(bare)
    with pytest.raises(ValueError, match=r"^This model has no layers that 'attention' means\.$"):
        method(name, "attention").adapt(nn.Sequential(nn.Linear(D, D)))
    with pytest.raises(ValueError, match=r"^0 is a Int8 with a weight .* codes"):
        method(name, "all-linear").adapt(nn.Sequential(Int8(D, D)))


@pytest.mark.parametrize("word", ["all-linear", "attention"])
def test_projections_fused_into_one_parameter_are_named(word: str) -> None:
    attention = nn.MultiheadAttention(D, 2)
    model = nn.ModuleDict({"attention": deepcopy(attention), "lstm": nn.LSTM(D, D)})
    with pytest.warns(UserWarning, match=r"^attention\.in_proj_weight \[48, 16\] and 2 more"):
        method("lora", word).adapt(model)
    assert [n for n, _ in adapter_layers(model)] == ["attention.out_proj"]
    with pytest.raises(ValueError, match=r"'in_proj_weight' names the parameter attention\.in_pr"):
        method("lora", "in_proj_weight").adapt(
            nn.ModuleDict({"attention": nn.MultiheadAttention(D, 2)})
        )


def test_pissa_says_where_a_weight_has_fewer_directions_than_its_rank() -> None:
    model = Classifier()
    nn.init.zeros_(model.body[0].weight)
    with torch.no_grad():
        model.body[0].weight[0, 0] = 1
    with pytest.raises(
        ValueError, match=r"^body\.0 cannot be adapted\. rank is 2, and the smallest"
    ):
        method("pissa", "body.0", rank=2).adapt(model)


def test_products_that_hooks_make_are_not_rounded_by_autocast() -> None:
    for name in ("adalora", "lora_fa"):
        found = []
        for on in (False, True):
            torch.manual_seed(0)
            model = Classifier()
            variant = method(name, ["0", "2"])
            variant.adapt(model)
            nudge(model)
            model(batch()).square().sum().backward()
            with torch.autocast("cpu", torch.bfloat16, enabled=on):
                found.append(torch.as_tensor(variant.penalty(model)).detach())
                variant.after_backward(model, Progress(1, 9))
            found.append(
                torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            )
        assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])
