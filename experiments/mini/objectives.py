"""What a backbone learns from the suite's text: to guess masked tokens, or the next one.

A batch is a function of the recipe and its number, so that no reader has a position to restore.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, RobertaForMaskedLM

from experiments.mini.backbones import SPECIAL
from experiments.mini.text import TELLING, passages
from experiments.models import positions
from experiments.randomness import derived_seed

BATCHES_AT_A_TIME = 32  # so many are cut from passages sorted by length: next to no padding
HELD_OUT_SEED = 1  # of a stream that no recipe trains on
HELD_OUT = 2048  # passages


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that the weights follow from, beside the text."""

    name: str
    steps: int
    batch_size: int = 32  # passages
    lr: float = 2e-3
    warmup: float = 0.05  # share of the steps; then the rate falls to zero in a straight line
    weight_decay: float = 0.01
    clip: float = 1.0
    pairs: float = 0.6  # share of the passages cut into two texts, as the tasks on pairs have them
    masked: float = 0.07  # share of the tokens of a first sentence that an encoder must guess
    later: float = 0.25  # the same share of what follows, which the first sentence tells about
    telling: float = 0.7  # the same share of the words that say how two sentences are related
    shifted: float = 0.05  # share of the batches at later positions, which short texts never reach
    vocabulary: int = 20000  # passages that the tokenizer is made from
    seed: int = 0


@dataclass(frozen=True)
class Objective:
    """A model that reads passages and is told how well it guessed."""

    recipe: Recipe
    model: RobertaForMaskedLM | GPT2LMHeadModel
    tokenizer: PreTrainedTokenizerFast

    def encode(self, texts: list[tuple[str, ...]]) -> list[list[int]]:
        """Token ids of texts and pairs of texts, framed as for a task."""
        raise NotImplementedError

    def losses(self, ids: Tensor, real: Tensor, first: int, generator: torch.Generator) -> Tensor:
        """The loss [k] of each guess on ids [n, tokens], whose first position is `first`."""
        raise NotImplementedError

    @cached_property
    def longest(self) -> int:
        """Tokens that the model has positions for."""
        return positions(self.model.config)

    def batch(self, step: int) -> list[list[int]]:
        """The token ids of step `step`, from 0."""
        return self.batches(step // BATCHES_AT_A_TIME)[step % BATCHES_AT_A_TIME]

    @lru_cache(maxsize=1)  # noqa: B019 (there is one objective in a process)
    def batches(self, number: int) -> list[list[list[int]]]:
        """One lot of batches, each of texts of like length, in any order."""
        seed, size = derived_seed(self.recipe.seed, "text", number), self.recipe.batch_size
        found = list(self.sorted_batches(seed, size * BATCHES_AT_A_TIME, size))
        random.Random(seed).shuffle(found)
        return found

    def held_out(self) -> Iterator[list[list[int]]]:
        """The batches that every model is judged by."""
        return self.sorted_batches(HELD_OUT_SEED, HELD_OUT, 64)

    def sorted_batches(self, seed: int, number: int, size: int) -> Iterator[list[list[int]]]:
        """So many passages of a stream, in batches from the short to the long."""
        draw = random.Random(seed)
        texts = [self.cut(passage, draw) for passage in islice(passages(seed), number)]
        rows = sorted((row[: self.longest] for row in self.encode(texts)), key=len)
        return (rows[start : start + size] for start in range(0, number, size))

    def cut(self, passage: list[str], draw: random.Random) -> tuple[str, ...]:
        """A passage as one text, or cut into two behind the first sentence."""
        if len(passage) > 1 and draw.random() < self.recipe.pairs:
            return passage[0], " ".join(passage[1:])
        return (" ".join(passage),)

    def loss(self, rows: list[list[int]], generator: torch.Generator, shifted: float) -> Tensor:
        """The losses [k] of all guesses in a batch, at later positions with chance `shifted`."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        first = 0
        if torch.rand((), generator=generator) < shifted:
            room = self.longest - ids.shape[1]
            first = int(torch.randint(room + 1, (), generator=generator))
        return self.losses(ids, real, first, generator)


@dataclass(frozen=True)
class Masked(Objective):
    """Guess tokens of which 80 % are masked, 10 % replaced by any other and 10 % left, as in BERT.

    Telling words are guessed more often, and always masked: a false one in sight would be a false
    relation.
    """

    model: RobertaForMaskedLM

    def encode(self, texts: list[tuple[str, ...]]) -> list[list[int]]:
        found = self.tokenizer.backend_tokenizer.encode_batch(
            [text if len(text) == 2 else text[0] for text in texts]
        )
        return [encoding.ids for encoding in found]

    @cached_property
    def telling(self) -> Tensor:
        """Which tokens [tokens] are words that say how two sentences are related."""
        # In the byte-level alphabet a space is written like this.
        return self.among([f"Ġ{form}" for w in TELLING for form in (w, w.capitalize())])

    @cached_property
    def ends(self) -> Tensor:
        """Which tokens [tokens] end a sentence."""
        return self.among([".", "?"])

    def among(self, tokens: list[str]) -> Tensor:
        """Which tokens [tokens] are these, as far as there are such."""
        known = self.tokenizer.get_vocab()
        marked = torch.zeros(len(self.tokenizer), dtype=torch.bool)
        marked[[known[token] for token in tokens if token in known]] = True
        return marked

    def losses(self, ids: Tensor, real: Tensor, first: int, generator: torch.Generator) -> Tensor:
        telling, ends = self.telling[ids], self.ends[ids].cumsum(dim=1)
        shares = torch.where(ends > self.ends[ids].long(), self.recipe.later, self.recipe.masked)
        shares = torch.where(telling, self.recipe.telling, shares)
        chosen = torch.rand(ids.shape, generator=generator) < shares
        # Never a token of the frame; padding has the id of one.
        chosen &= ids >= len(SPECIAL["mini_roberta"])
        shown = self.corrupted(ids, chosen, telling, generator)
        # RoBERTa's first positions are taken by the padding index.
        start = self.model.config.max_position_embeddings - self.longest + first
        hidden = self.model.roberta(
            input_ids=shown,
            attention_mask=real.long(),
            position_ids=torch.arange(start, start + ids.shape[1]).expand_as(ids),
        ).last_hidden_state
        # The head only where there is something to guess.
        return F.cross_entropy(self.model.lm_head(hidden[chosen]), ids[chosen], reduction="none")

    def corrupted(
        self, ids: Tensor, chosen: Tensor, telling: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The ids as they are shown to the model."""
        fate = torch.rand(ids.shape, generator=generator).masked_fill(telling, 0.0)
        anything = torch.randint(len(self.tokenizer), ids.shape, generator=generator)
        shown = torch.where(chosen & (fate < 0.8), SPECIAL["mini_roberta"].index("<mask>"), ids)
        return torch.where(chosen & (fate >= 0.9), anything, shown)


@dataclass(frozen=True)
class Causal(Objective):
    """Guess every token but the first from those before it."""

    model: GPT2LMHeadModel

    def encode(self, texts: list[tuple[str, ...]]) -> list[list[int]]:
        end = str(self.tokenizer.eos_token)
        return self.tokenizer([end.join(text) + end for text in texts])["input_ids"]

    def losses(self, ids: Tensor, real: Tensor, first: int, generator: torch.Generator) -> Tensor:
        # Padding stands behind the text, where nothing that counts can look at it.
        hidden = self.model.transformer(
            input_ids=ids, position_ids=torch.arange(first, first + ids.shape[1]).expand_as(ids)
        ).last_hidden_state
        guessed = real[:, 1:]
        logits = self.model.lm_head(hidden[:, :-1][guessed])
        return F.cross_entropy(logits, ids[:, 1:][guessed], reduction="none")
