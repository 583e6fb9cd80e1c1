"""The tokenizers and the shapes of the shipped backbones, as `pretrain` begins with them."""

from collections.abc import Iterable
from pathlib import Path

import torch.nn as nn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

SHIPPED = Path(__file__).parent / "weights"
TOKENS = 4096
WIDTH, LAYERS, HEADS = 128, 4, 4
# What each family calls its special tokens; their ids are their places in the list.
SPECIAL = {
    "mini_roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "mini_gpt2": ["<|endoftext|>"],
}


def train_tokenizer(name: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE in the frame of its family; every byte is a token, so it reads any text."""
    # A space before the first word, so that a word is the same token wherever it stands.
    words = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=SPECIAL[name],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if name == "mini_gpt2":
        (end,) = SPECIAL[name]
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=end,
            eos_token=end,
            unk_token=end,
            model_input_names=["input_ids", "attention_mask"],
        )
    begin, pad, end, unknown, mask = SPECIAL[name]
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, SPECIAL[name].index(end)), (begin, SPECIAL[name].index(begin))
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        sep_token=end,
        cls_token=begin,
        unk_token=unknown,
        pad_token=pad,
        mask_token=mask,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_model(name: str, tokens: int) -> RobertaForMaskedLM | GPT2LMHeadModel:
    """The model with its language-model head, drawn from the global generator."""
    if name == "mini_gpt2":
        config = GPT2Config(
            vocab_size=tokens,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=256,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one kernel
            initializer_range=0.05,
            bos_token_id=0,
            eos_token_id=0,
        )
        return GPT2LMHeadModel(config)
    config = RobertaConfig(
        vocab_size=tokens,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=130,  # 128 tokens: the first two places are the padding's
        type_vocab_size=1,
        initializer_range=0.05,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    model = RobertaForMaskedLM(config)
    # Blocks that start close to the identity take a rate at which others learn nothing.
    for name, parameter in model.named_parameters():
        if name.endswith("output.dense.weight"):
            nn.init.normal_(parameter, std=0.01)
    return model
