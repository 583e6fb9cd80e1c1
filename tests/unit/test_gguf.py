"""GGUF files, as a package or a user has them."""

import json
import os
import string
from pathlib import Path

import gguf as library
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from experiments.models import gguf
from experiments.models.pretrained import Pretrained

WORDS = ["<unk>", "<s>", "</s>", "<|endoftext|>", *string.ascii_lowercase, "Ġa", "Ġb", "ab", "Ċ"]
D, HEADS, GROUPS, INNER = 64, 4, 2, 96


def write_gguf(path: Path, quantised: bool = True) -> dict[str, np.ndarray]:
    """A tiny Llama; returns the values that its matrices hold, by the file's names."""
    rng = np.random.default_rng(0)
    writer = library.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(D)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([1] * len(WORDS))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    side = D // HEADS * GROUPS
    shapes = {
        "token_embd": (len(WORDS), D), "blk.0.attn_q": (D, D), "blk.0.attn_k": (side, D),
        "blk.0.attn_v": (side, D), "blk.0.attn_output": (D, D), "blk.0.ffn_gate": (INNER, D),
        "blk.0.ffn_up": (INNER, D), "blk.0.ffn_down": (D, INNER),
    }  # fmt: skip
    values = {}
    for name, shape in shapes.items():
        matrix = rng.normal(size=shape).astype(np.float32)
        if quantised:
            kind = library.GGMLQuantizationType.Q4_1
            packed = library.quantize(matrix, kind)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
            matrix = library.dequantize(packed, kind)
        else:
            writer.add_tensor(f"{name}.weight", matrix)
        values[name] = matrix
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(D, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def pretrained(path: Path | str, sha256: str | None = None, package: str | None = None):
    return Pretrained(
        name="tiny", path=str(path), package=package, revision=None, sha256=sha256, dropout=None,
        lr_scale=1.0, linears={},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("quantised", [True, False])
def test_a_model_has_the_values_that_the_file_says(tmp_path: Path, quantised: bool) -> None:
    values = write_gguf(tmp_path / "tiny.gguf", quantised)
    model = pretrained(tmp_path / "tiny.gguf")
    backbone = model.backbone()
    weights = dict(backbone.named_parameters())
    assert {p.dtype for p in weights.values()} == {torch.float32}
    for ours, theirs in {
        "embed_tokens": "token_embd", "layers.0.self_attn.v_proj": "blk.0.attn_v",
        "layers.0.self_attn.o_proj": "blk.0.attn_output",
        "layers.0.mlp.down_proj": "blk.0.ffn_down",
    }.items():  # fmt: skip
        np.testing.assert_array_equal(weights[f"{ours}.weight"].detach().numpy(), values[theirs])
    # llama.cpp turns other pairs of q's and k's rows than transformers, and orders them so.
    stored = values["blk.0.attn_q"].reshape(HEADS, D // HEADS // 2, 2, D)
    np.testing.assert_array_equal(
        weights["layers.0.self_attn.q_proj.weight"].detach().numpy(),
        stored.swapaxes(1, 2).reshape(D, D),
    )


def test_the_folder_is_one_that_transformers_reads_and_is_made_once(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    model = pretrained(tmp_path / "tiny.gguf")
    folder = model.folder()
    assert folder.parent == cache / "lora-assay" / "gguf"
    assert "made into float32 weights, once" in capsys.readouterr().out
    changed = (folder / "model.safetensors").stat().st_mtime_ns
    assert model.folder() == folder and capsys.readouterr().out == ""
    assert (folder / "model.safetensors").stat().st_mtime_ns == changed
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and config["architectures"] == ["LlamaForCausalLM"]
    theirs = AutoModel.from_pretrained(folder).state_dict()
    for name, tensor in model.backbone().state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0)
    assert model.weights_hash() == gguf.hash_file(folder / "model.safetensors")
    tokens = model.load(2, torch.Generator(), "fp32").tokenizer("ab a")["input_ids"]
    assert WORDS.index("ab") in tokens


def test_another_file_is_refused_by_its_hash(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    own = gguf.hash_file(tmp_path / "tiny.gguf")
    assert pretrained(tmp_path / "tiny.gguf", own).weights_hash()
    with pytest.raises(ValueError, match=r"tiny\.gguf has sha256 .* and 00 was expected"):
        pretrained(tmp_path / "tiny.gguf", "00").folder()


@pytest.mark.parametrize("harm", ["short", "empty", "text", "other architecture", "pipe"])
def test_a_damaged_file_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, cache: Path, harm: str
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    path.unlink()
    if harm == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes({
            "short": whole[: len(whole) // 2], "empty": b"", "text": b"no model" * 99,
            "other architecture": whole.replace(b"llama", b"llxma"),
        }[harm])  # fmt: skip
    with pytest.raises(ValueError, match=r"tiny\.gguf"):
        pretrained(path).folder()
    assert not list(cache.rglob("config.json"))


def test_a_file_in_a_package_comes_after_a_folder_and_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").touch()
    write_gguf(tmp_path / "carrier" / "tiny.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    model = pretrained("some/where", package="carrier/tiny.gguf")
    weights = load_file(model.folder() / "model.safetensors")
    assert "model.layers.0.self_attn.q_proj.weight" in weights
    assert not any("lm_head" in name for name in weights)  # tied to the table


def test_without_the_package_the_error_says_how_to_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="make setup EXTRAS=gguf"):
        pretrained(tmp_path / "tiny.gguf").folder()
