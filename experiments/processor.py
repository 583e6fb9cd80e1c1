"""How a processor is used: by which library it multiplies, and with how many threads.

PyTorch's default on x86 is MKL, which on some processors of another make runs at half their rate.
`torch.set_float32_matmul_precision("medium")` sends the products to oneDNN, which may, but need
not, round to bfloat16 there; so speed and error are both looked at.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from statistics import median

import torch
from torch import Tensor

DEFAULT, OTHER = "highest", "medium"  # as torch names them
ROUNDS = 7
GAIN = 1.1  # how much faster the other way must be to be taken
NARROW = 256  # below this width a thread's share of a product is over before it has begun


@contextmanager
def restored() -> Iterator[None]:
    """Leave torch's settings as they were."""
    before, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_num_threads(threads)


def threads_for(width: int) -> int:
    """One for a narrow model, which gains nothing by more, and else as many as torch has."""
    return 1 if width < NARROW else torch.get_num_threads()


@cache
def fastest(width: int) -> str:
    """The faster exact setting for products of this width on this machine's processor."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, width, generator=generator)
    weight = torch.randn(width, width, generator=generator)
    exact = x.double() @ weight.double()
    with restored():
        times = {name: [] for name in (DEFAULT, OTHER)}
        errors = {}
        for _ in range(ROUNDS):
            for name, found in times.items():
                torch.set_float32_matmul_precision(name)
                started = time.process_time()
                product = x @ weight
                found.append(time.process_time() - started)
                errors[name] = error(product, exact)
    # The first call of each way sets things up.
    seconds = {name: median(found[1:]) for name, found in times.items()}
    return choice(seconds, errors)


def error(product: Tensor, exact: Tensor) -> float:
    """The largest error as a share of the largest number."""
    return float((product - exact).abs().max() / exact.abs().max())


def choice(seconds: dict[str, float], errors: dict[str, float]) -> str:
    """The other setting where it gains enough and rounds no more than twice as much."""
    faster = seconds[OTHER] * GAIN < seconds[DEFAULT]
    return OTHER if faster and errors[OTHER] <= 2 * errors[DEFAULT] else DEFAULT
