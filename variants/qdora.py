"""QDoRA: DoRA on a base of 4-bit NormalFloat.

No paper was read; PEFT has it as DoRA on a quantised base. The magnitude m starts as the row norms
of the quantised weight, so that the start is the quantised model; on an exact base it is DoRA.
"""

from dataclasses import dataclass

from variants.dora import DoRA
from variants.qlora import QLoRA


@dataclass(frozen=True, kw_only=True)
class QDoRA(QLoRA, DoRA):
    """DoRA whose frozen weights take half a byte each."""
