"""rsLoRA: LoRA with s = alpha / sqrt(r), which scales large ranks down less than alpha / r.

Kalajdzievski, 2023, arXiv:2312.03732.
"""

from dataclasses import dataclass
from typing import ClassVar

from variants.lora import LoRA


@dataclass(frozen=True, kw_only=True)
class RsLoRA(LoRA):
    """LoRA by the scale of rsLoRA; `lora` with rslora=true is the same."""

    any_form: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rslora:
            raise ValueError("rslora must be true here: s = alpha / sqrt(r); else it is lora.")
