"""How a processor is used: by which library it multiplies, and with how many threads.

PyTorch's default on x86 is MKL, which on some processors of another make runs at half their rate.
`torch.set_float32_matmul_precision("medium")` sends the products to oneDNN, which may, but need
not, round to bfloat16 there; so speed and error are both looked at.

Without instructions for bfloat16 PyTorch's products of it are several times slower than those of
float32, and are made in float32 here.
"""

import hashlib
import json
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.disk.files import read_object, write_record
from experiments.disk.locks import in_turn
from experiments.disk.userfolders import cache_folder, can_write, own_cache

log = logging.getLogger(__name__)

DEFAULT, OTHER = "highest", "medium"  # as torch names them
NATIVE, BY_FLOAT32 = "native", "float32"
ATEN = torch.ops.aten
PRODUCTS = {op.default for op in (ATEN.mm, ATEN.addmm, ATEN.bmm, ATEN.baddbmm)}
ROUNDS = 25
# How much faster the other way must be: less comes and goes with what else the machine does, and
# two runs of one study would be multiplied differently.
GAIN = 1.3
# How much larger its error may be: sums in another order have a few times the error, and TF32 and
# bfloat16 a thousand times.
LARGER = 10
NARROW = 256  # below this width a thread's share of a product is over before it has begun


@contextmanager
def configure_products(products: str, threads: int) -> Iterator[None]:
    """Multiply float32 in this way and with so many threads, and afterwards as before."""
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        torch.set_float32_matmul_precision(products)
        torch.set_num_threads(threads)
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.set_num_threads(before[1])


def threads_for(width: int) -> int:
    """One for a narrow model, which gains nothing by more, and else as many as torch has."""
    return 1 if width < NARROW else torch.get_num_threads()


@cache
def fastest(width: int) -> str:
    """The faster exact setting for products of this width on this machine's processor.

    It is tried once and kept in the user's cache: another process could find otherwise while others
    work beside it, and the runs of one study would be multiplied in two ways.
    """
    if not can_write(cache_folder()):
        return measure_products(width)
    about = {
        "processor": processor_name(), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "width": width,
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    path = own_cache("products", "how matrices are multiplied") / f"{name}.json"
    with in_turn(path.with_suffix(".lock")):
        found = read_choice(path)
        if found is None:
            found = measure_products(width)
            try:
                write_record(path, {**about, "float32_products": found})
            except OSError as error:  # the next process tries for itself
                log.info("How matrices are multiplied is not kept: %s", error)
    return found


def read_choice(path: Path) -> str | None:
    """The setting that was found before; None if there is none, or the file is damaged."""
    try:
        found = read_object(path).get("float32_products")
    except (OSError, ValueError):
        return None
    return found if found in (DEFAULT, OTHER) else None


def processor_name() -> str:
    """The name of this machine's processor, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def measure_products(width: int) -> str:
    """The faster exact setting, tried just now."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, width, generator=generator)
    weight = torch.randn(width, width, generator=generator)
    exact = x.double() @ weight.double()
    threads = torch.get_num_threads()
    times = {name: [] for name in (DEFAULT, OTHER)}
    errors = {}
    for _ in range(ROUNDS):
        for name, found in times.items():
            with configure_products(name, threads):
                started = time.process_time()
                product = x @ weight
                found.append(time.process_time() - started)
            errors[name] = error(product, exact)
    # The first call of each way sets things up; what others do on the machine only adds to one.
    seconds = {name: min(found[1:]) for name, found in times.items()}
    return choice(seconds, errors)


def error(product: Tensor, exact: Tensor) -> float:
    """The largest error as a share of the largest number."""
    return float((product - exact).abs().max() / exact.abs().max())


def choice(seconds: dict[str, float], errors: dict[str, float]) -> str:
    """The other setting if it gains enough and its sums are those of float32."""
    faster = seconds[OTHER] * GAIN < seconds[DEFAULT]
    return OTHER if faster and errors[OTHER] <= LARGER * errors[DEFAULT] else DEFAULT


def bfloat16_products(device: torch.device) -> str:
    """How matrices of bfloat16 are multiplied on a device."""
    # Where oneDNN does not take them, PyTorch has but a plain loop.
    slow = device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return BY_FLOAT32 if slow else NATIVE


def batch_multiple(device: torch.device, precision: str) -> int:
    """The number of which the tokens of a batch are made a multiple.

    oneDNN, which takes products of bfloat16, writes code for every shape it meets and keeps it: a
    hundred numbers of tokens leave hundreds of MiB behind, and a new one costs milliseconds.
    """
    kept = device.type == "cpu" and precision == "bf16" and bfloat16_products(device) == NATIVE
    return 16 if kept else 1


def multiplying(device: torch.device, precision: str) -> AbstractContextManager:
    """While it is entered, products are made as `bfloat16_products` says."""
    slow = precision == "bf16" and bfloat16_products(device) == BY_FLOAT32
    return ByFloat32() if slow else nullcontext()


class ByFloat32(TorchDispatchMode):
    """Makes products of bfloat16 in float32 and rounds each once.

    Instructions for bfloat16 do the same: they sum in float32.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or args[0].dtype != torch.bfloat16:
            return func(*args, **kwargs)
        return func(*(factor.float() for factor in args), **kwargs).bfloat16()
