"""How texts are generated, as settings; `generation` does it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # settings do not wait for torch
    from transformers import PreTrainedTokenizerBase


# Not frozen: OmegaConf cannot fill in a frozen dataclass that is a field of another.
@dataclass(kw_only=True)
class Decoding:
    """How texts are generated."""

    beams: int  # 1: greedy
    length_penalty: float  # power of the length that a beam's log-probability is divided by
    no_repeat_ngram: int  # no n-gram occurs twice in a generated text; 0: it may
    max_tokens: int  # of the generated text, its end included
    end: list[str]  # texts of one token that end a text, besides the tokenizer's own end
    batch_size: int  # prompts at a time

    def __post_init__(self) -> None:
        for name in ("beams", "max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"decoding.{name} must be at least 1, got {getattr(self, name)}.")
        if self.no_repeat_ngram < 0:
            raise ValueError(
                f"decoding.no_repeat_ngram must be 0 or more, got {self.no_repeat_ngram}."
            )

    def end_tokens(self, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        """The ids of the tokens that end a text."""
        ids: list[int] = [cast(int, tokenizer.eos_token_id)]
        for text in self.end:
            found = cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"])
            if len(found) != 1:
                raise ValueError(
                    f"decoding.end: {text!r} must be one token, and is {len(found)} of this model."
                )
            ids += found
        return ids

    def check_room(self, longest: int, positions: int) -> None:
        """Raise ValueError if the longest prompt leaves a model too few positions."""
        room = positions - self.max_tokens
        if longest > room:
            raise ValueError(
                f"A prompt has {longest} tokens, and beside decoding.max_tokens={self.max_tokens} "
                f"the model has positions for {room}."
            )
