"""Small configs of many architectures."""

import json
from pathlib import Path
from typing import Any

import torch
from conftest import vocabulary
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

from experiments.families.base import families

LLAMA = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 140,
}  # fmt: skip


BERT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 140, "type_vocab_size": 1,
}  # fmt: skip


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama_3_2_1b": {"model_type": "llama", **LLAMA, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }},
    "qwen3_0_6b": {"model_type": "qwen3", **LLAMA, "head_dim": 12},
    "qwen2_5_0_5b": {"model_type": "qwen2", **LLAMA},
    "mistral_7b": {"model_type": "mistral", **LLAMA},
    "gemma_3_1b": {"model_type": "gemma3_text", **LLAMA, "head_dim": 8, "sliding_window": 128},
    "deberta_v3_base": {
        "model_type": "deberta-v2", **BERT, "relative_attention": True, "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "share_att_key": True,
        "position_biased_input": False,
    },
    "modernbert_base": {"model_type": "modernbert", **BERT},
    "distilbert": {
        "model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
        "max_position_embeddings": 140,
    },
    "xlm_roberta_base": {"model_type": "xlm-roberta", **BERT},
    "electra_base": {"model_type": "electra", **BERT, "embedding_size": 16},
}  # fmt: skip


def save_t5(folder: Path, **settings: Any) -> None:
    """A tiny random model with a tokenizer whose texts end with an end token, as T5's do."""
    ids = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *vocabulary()])}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    config = families()["t5"].tiny_config(vocab_size=len(ids), **settings)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config)
    if not settings.get("tie_word_embeddings", True):  # as the later models are stored
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if not settings.get("tie_word_embeddings", True):
        about = json.loads((folder / "config.json").read_text())
        about["tie_word_embeddings"] = False
        (folder / "config.json").write_text(json.dumps(about))
