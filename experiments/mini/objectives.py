"""Pretraining objectives on the suite's text: guess masked tokens, or the next token.

A batch is a function of the recipe and its number, so that no reader has a position to restore.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, RobertaForMaskedLM

from experiments.families.base import family_of
from experiments.machine.randomness import derive_seed
from experiments.mini.architectures import SPECIAL
from experiments.mini.passages import TELLING, passages
from experiments.mini.rivals import rivals

BATCHES_AT_A_TIME = 32  # so many are cut from passages sorted by length: next to no padding
MASK = SPECIAL["mini_roberta"].index("<mask>")
HELD_OUT_SEED = 1  # of a stream that no recipe trains on
HELD_OUT = 2048  # passages


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that the weights follow from, beside the text."""

    name: str
    steps: int
    batch_size: int = 128  # passages
    lr: float = 4e-3  # AdamW's: embeddings, norms, heads
    matrix_lr: float = 8e-3  # Muon's: matrices inside the blocks
    warmup: float = 0.05  # share of the steps; then the rate falls to zero in a straight line
    weight_decay: float = 0.01
    clip: float = 1.0
    pairs: float = 0.6  # share of the passages cut into two texts, as the tasks on pairs have them
    masked: float = 0.1  # share of the tokens of a first sentence that an encoder must guess
    later: float = 0.25  # the same share of what follows, which the first sentence tells about
    telling: float = 0.7  # the same share of the words that say how things are related
    wrong: float = 0.3  # share of the tokens to guess that a rival replaces; another 0.1 are left
    swapped: float = 0.2  # share of the passages in which two rivals change places
    finding: float = 3.0  # weight of finding wrong words, beside guessing
    shifted: float = 0.05  # share of the batches at later positions, which short texts never reach
    spelled: float = 0.0  # share of the passages that are about invented words
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

    def losses(
        self, ids: Tensor, real: Tensor, first: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The loss of each guess [k] and of each word held to be right or wrong [m].

        For ids [n, tokens], of which some are `real` and the first has the position `first`.
        """
        raise NotImplementedError

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is learned."""
        return dict(self.model.named_parameters())

    @cached_property
    def longest(self) -> int:
        """Tokens that the model has positions for."""
        return family_of(self.model.config).max_length(self.model.config)

    def batch(self, step: int) -> list[list[int]]:
        """The token ids of step `step`, from 0."""
        return self.batches(step // BATCHES_AT_A_TIME)[step % BATCHES_AT_A_TIME]

    @lru_cache(maxsize=1)  # noqa: B019 (there is one objective in a process)
    def batches(self, number: int) -> list[list[list[int]]]:
        """One lot of batches, each of texts of like length, in any order."""
        seed, size = derive_seed(self.recipe.seed, "text", number), self.recipe.batch_size
        found = list(self.sorted_batches(seed, size * BATCHES_AT_A_TIME, size))
        random.Random(seed).shuffle(found)
        return found

    def held_out(self) -> Iterator[list[list[int]]]:
        """The batches that every model is judged by."""
        return self.sorted_batches(HELD_OUT_SEED, HELD_OUT, 64)

    def sorted_batches(self, seed: int, number: int, size: int) -> Iterator[list[list[int]]]:
        """So many passages of a stream, in batches from the short to the long."""
        draw = random.Random(seed)
        stream = passages(seed, self.recipe.spelled)
        texts = [self.cut(passage, draw) for passage in islice(stream, number)]
        rows = sorted((row[: self.longest] for row in self.encode(texts)), key=len)
        return (rows[start : start + size] for start in range(0, number, size))

    def cut(self, passage: list[str], draw: random.Random) -> tuple[str, ...]:
        """A passage as one text, or cut into two behind the first sentence."""
        if len(passage) > 1 and draw.random() < self.recipe.pairs:
            return passage[0], " ".join(passage[1:])
        return (" ".join(passage),)

    def loss(self, rows: list[list[int]], generator: torch.Generator) -> tuple[Tensor, float]:
        """Return the loss to minimise on a batch, and the mean loss of its guesses."""
        shifted = bool(torch.rand((), generator=generator) < self.recipe.shifted)
        guesses, verdicts = self.judge(rows, generator, shifted)
        loss = guesses.mean()
        if len(verdicts):
            loss = loss + self.recipe.finding * verdicts.mean()
        return loss, float(guesses.detach().mean())

    def judge(
        self, rows: list[list[int]], generator: torch.Generator, shifted: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The `losses` of a batch, at the first positions or from any later one."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        room = self.longest - ids.shape[1]
        first = int(torch.randint(room + 1, (), generator=generator)) if shifted else 0
        return self.losses(ids, real, first, generator)


@dataclass(frozen=True)
class Masked(Objective):
    """Guess masked words, and find the wrong ones among the others.

    Of the words to guess most are masked, as in BERT (arXiv 1810.04805). A share is replaced by
    rivals, words of the same class: the model must guess what was there, and of every word in sight
    it must say whether it is in its place, as in ELECTRA (arXiv 2003.10555).
    """

    model: RobertaForMaskedLM

    def encode(self, texts: list[tuple[str, ...]]) -> list[list[int]]:
        found = self.tokenizer.backend_tokenizer.encode_batch(
            [text if len(text) == 2 else text[0] for text in texts]
        )
        return [encoding.ids for encoding in found]

    def parameters(self) -> dict[str, nn.Parameter]:
        found = {f"detector.{name}": p for name, p in self.detector.named_parameters()}
        return {**super().parameters(), **found}

    @cached_property
    def detector(self) -> nn.Linear:
        """From a hidden state to the logit of a wrong word; no part of the model that is kept."""
        layer = nn.Linear(self.model.config.hidden_size, 1, device="meta").to_empty(device="cpu")
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        return layer

    @cached_property
    def known(self) -> dict[str, int]:
        """The ids of tokens."""
        return self.tokenizer.get_vocab()

    def ids(self, words: Iterable[str]) -> list[int]:
        """The ids of those words inside a text that are one token."""
        # In the byte-level alphabet a space is written like this.
        return [self.known[f"Ġ{word}"] for word in words if f"Ġ{word}" in self.known]

    @cached_property
    def telling(self) -> Tensor:
        """Return which tokens [tokens] are words that say how things are related."""
        marked = torch.zeros(len(self.tokenizer), dtype=torch.bool)
        marked[self.ids(form for word in TELLING for form in (word, word.capitalize()))] = True
        return marked

    @cached_property
    def ends(self) -> Tensor:
        """Return which tokens [tokens] end a sentence."""
        marked = torch.zeros(len(self.tokenizer), dtype=torch.bool)
        marked[[self.known["."], self.known["?"]]] = True
        return marked

    @cached_property
    def rivals(self) -> Tensor:
        """1 if the second token could stand wrongly in the place of the first, else 0."""
        found = torch.zeros(len(self.tokenizer), len(self.tokenizer))
        for word, others in rivals().items():
            for spelled in (str, str.capitalize):
                for token in self.ids([spelled(word)]):
                    found[token, self.ids(map(spelled, sorted(others)))] = 1.0
        return found

    def losses(
        self, ids: Tensor, real: Tensor, first: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        # Never a token of the frame; padding has the id of one.
        words = ids >= len(SPECIAL["mini_roberta"])
        ends = self.ends[ids].cumsum(dim=1)
        later = words & (ends > self.ends[ids].long())
        shares = torch.where(later, self.recipe.later, self.recipe.masked)
        shares = torch.where(self.telling[ids], self.recipe.telling, shares)
        chosen = words & (torch.rand(ids.shape, generator=generator) < shares)
        shown = self.corrupted(ids, chosen, generator)
        swapped = self.swapped(ids, later & (shown == ids), generator)
        shown = torch.where(swapped == ids, shown, swapped)
        chosen |= swapped != ids
        # RoBERTa's first positions are taken by the padding index.
        start = self.model.config.max_position_embeddings - self.longest + first
        hidden = self.model.roberta(
            input_ids=shown,
            attention_mask=real.long(),
            position_ids=torch.arange(start, start + ids.shape[1]).expand_as(ids),
        ).last_hidden_state
        # The heads only where there is something to guess or to find.
        guesses = self.model.lm_head(hidden[chosen])
        seen = words & (shown != MASK)
        found, wrong = self.detector(hidden[seen])[:, 0], (shown != ids)[seen].float()
        return (
            F.cross_entropy(guesses, ids[chosen], reduction="none"),
            F.binary_cross_entropy_with_logits(found, wrong, reduction="none"),
        )

    def corrupted(self, ids: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """The ids [n, tokens] with what is chosen masked, replaced by a rival, or left."""
        fate = torch.rand(ids.shape, generator=generator)
        masked = 0.9 - self.recipe.wrong
        shown = torch.where(chosen & (fate < masked), MASK, ids)
        wrong = chosen & (fate >= masked) & (fate < 0.9) & self.rivals.any(dim=1)[ids]
        if wrong.any():
            drawn = torch.multinomial(self.rivals[ids[wrong]], 1, generator=generator)
            shown[wrong] = drawn[:, 0]
        return shown

    def swapped(self, ids: Tensor, where: Tensor, generator: torch.Generator) -> Tensor:
        """The ids [n, tokens] with two rivals exchanged in some rows, both from `where`."""
        width = ids.shape[1]
        pairs = self.rivals[ids[:, :, None], ids[:, None, :]]
        pairs = (pairs * where[:, :, None] * where[:, None, :]).flatten(1)
        drawn = torch.rand(len(ids), generator=generator) < self.recipe.swapped
        rows = (pairs.any(dim=1) & drawn).nonzero()[:, 0]
        found = ids.clone()
        if len(rows):
            place = torch.multinomial(pairs[rows], 1, generator=generator)[:, 0]
            one, two = place // width, place % width
            found[rows, one], found[rows, two] = ids[rows, two], ids[rows, one]
        return found


@dataclass(frozen=True)
class Causal(Objective):
    """Guess every token but the first from those before it."""

    model: GPT2LMHeadModel

    def encode(self, texts: list[tuple[str, ...]]) -> list[list[int]]:
        end = str(self.tokenizer.eos_token)
        return self.tokenizer([end.join(text) + end for text in texts])["input_ids"]

    def losses(
        self, ids: Tensor, real: Tensor, first: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        # Padding stands behind the text, where nothing that counts can look at it.
        hidden = self.model.transformer(
            input_ids=ids, position_ids=torch.arange(first, first + ids.shape[1]).expand_as(ids)
        ).last_hidden_state
        guessed = real[:, 1:]
        logits = self.model.lm_head(hidden[:, :-1][guessed])
        return F.cross_entropy(logits, ids[:, 1:][guessed], reduction="none"), torch.empty(0)
