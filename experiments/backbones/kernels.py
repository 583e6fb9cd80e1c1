"""Have the compiled kernels at hand before they are needed."""

import logging
from pathlib import Path

import torch

from experiments.backbones.compiled import attention, base, gates, loss, norms
from variants.base import at_least_float32

log = logging.getLogger(__name__)


def load(dtype: torch.dtype) -> None:
    """Have every compiled kernel for this type in memory; the first time ever it takes seconds."""
    kept = base.drop.stats.cache_path
    if kept is None:
        log.info(
            "Compiling for this processor: about ten seconds, in every process. NUMBA_CACHE_DIR "
            "may name a folder to keep it in; there is none that may be written to."
        )
    elif not any(Path(kept).glob("*.nbi")):
        log.info("Compiling for this processor, once: about ten seconds.")
    x = torch.zeros(1, 1, dtype=dtype)
    like, ends, place = at_least_float32(x), torch.tensor([0, 1]), torch.tensor([0])
    attending = like, x, x, x, ends, ends, place, like, like, 1, 1, 1.0, False, 0.0, 0
    dropping, norm = (0.0, 0), (like[0], like[0])
    for kernel, *args in (
        (base.drop, x, x, *dropping),
        (norms.add_norm, x, x, *norm, 1.0, *dropping, x, x, like),
        (norms.add_norm_backward, x, x, x, like, *norm, *dropping, x, x),
        (norms.add_rms, x, x, like[0], 1.0, x, x, like),
        (norms.add_rms_backward, x, x, x, like, like[0], x),
        (gates.gate, like, x, x, 0, x),
        (gates.gate_backward, like, x, x, x, 0, x, x),
        (attention.attention, *attending, x),
        (attention.attention_backward, *attending, x, x, x, x),
        (loss.cross_entropy, like, x, place, 0.0, like[0], like[0]),
    ):
        base.run(kernel, *args, threads=1)
