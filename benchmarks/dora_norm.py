"""DoRA's row norm: time against W0 + s B A as a matrix, and error against float64.

    python benchmarks/dora_norm.py

Every width takes its turn with each form in one process, so that a busy machine slows all alike;
the ratios are medians over the rounds, and times are those of one thread.
"""

import time
from statistics import median

import torch
import torch.nn as nn
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from variants.dora import DoRALayer
from variants.lora import LoRALayer

SHAPES = ((384, 384), (768, 768), (1024, 1024), (1536, 384), (3072, 768), (768, 3072), (2048, 2048))
RANKS = (8, 64)
ROUNDS = 15


def naive_norm(layer: DoRALayer) -> Tensor:
    """The norm of LoRA's merged weight, with its three matrices [d_out, d_in]."""
    with torch.no_grad():
        return LoRALayer.merged_weight(layer).norm(dim=1)


FORMS = {
    "naive": naive_norm,
    "plain": DoRALayer.plain_norm,
    "gram": torch.no_grad()(DoRALayer.gram_norm),
    "chosen": torch.no_grad()(DoRALayer.new_norm),
    "kept": DoRALayer.row_norm,
}


def layer_of(d_out: int, d_in: int, rank: int) -> DoRALayer:
    """A layer as it is in the middle of a training."""
    layer = DoRALayer(nn.Linear(d_in, d_out), rank, scale=2.0, dropout=0.0)
    nn.init.normal_(layer.B, std=0.05)
    return layer


def times(layer: DoRALayer, calls: int) -> dict[str, list[float]]:
    """Microseconds of CPU per call, by form and round."""
    found: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(ROUNDS):
        for name, norm in FORMS.items():
            start = time.process_time()
            for _ in range(calls):
                norm(layer)
            found[name].append((time.process_time() - start) / calls * 1e6)
    return found


def error(layer: DoRALayer, form: str) -> float:
    """The largest relative error of a row's norm."""
    W0, A, B = (tensor.detach().double() for tensor in (layer.W0, layer.A, layer.B))
    exact = (W0 + layer.scale * B @ A).norm(dim=1)
    return float(((FORMS[form](layer) - exact) / exact).abs().max())


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    faster = [name for name in FORMS if name != "naive"]
    table = Table(title="times faster than naive, and largest relative errors", box=box.SIMPLE)
    for column in ("W", "rank", "naive us", *faster, "off plain", "off gram"):
        table.add_column(column, justify="right", no_wrap=True)
    for d_out, d_in in SHAPES:
        for rank in RANKS:
            layer = layer_of(d_out, d_in, rank)
            found = times(layer, calls=max(3, 10**7 // (d_out * d_in)))
            naive = found["naive"]
            ratios = [
                median(a / b for a, b in zip(naive, found[name], strict=True)) for name in faster
            ]
            table.add_row(
                f"{d_out}x{d_in}",
                str(rank),
                f"{median(naive):.0f}",
                *(f"{ratio:.2f}" for ratio in ratios),
                f"{error(layer, 'plain'):.0e}",
                f"{error(layer, 'gram'):.0e}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
