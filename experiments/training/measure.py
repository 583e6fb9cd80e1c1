"""Measure the cost of a run: parameters, time, memory, arithmetic."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.data.batches import Batch
from experiments.models.model import Model
from variants.base import adapter_layers, replace_module

MIB = 2**20
PASSES = 20  # of each form that a latency is the median of, where there is time for so many


@dataclass
class Cost:
    """Seconds and peak memory of one phase; `peak_mib` is None where it cannot be measured.

    The processor's seconds, all threads together, do not grow when others use the machine too.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_mib: float | None = None


@contextmanager
def measure(device: torch.device, cost: Cost) -> Iterator[None]:
    """Time a phase and find its peak memory: the GPU allocator's, or the process's resident set."""
    resettable = reset_peak(device)
    cost.peak_mib = 0.0 if resettable else None
    started, busy = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - started
        cost.processor_seconds = time.process_time() - busy
        cost.peak_mib = peak(device, cost)


@contextmanager
def add_time(cost: Cost) -> Iterator[None]:
    """Add the seconds of the block to a cost."""
    started, busy = time.perf_counter(), time.process_time()
    yield
    cost.seconds += time.perf_counter() - started
    cost.processor_seconds += time.process_time() - busy


def peak(device: torch.device, cost: Cost) -> float | None:
    """The peak so far of the phase that is measured; None if it cannot be."""
    return None if cost.peak_mib is None else read_peak(device)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Make running out of memory one sentence, on a GPU and on a CPU."""
    try:
        yield
    except RuntimeError as error:
        # On a CPU it has no class of its own.
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise ValueError(
                "There is too little memory for this run: raise train.accumulate, or lower "
                f"train.batch_size or the method's size ({str(error).splitlines()[0]})."
            ) from error
        raise


def memory_kind(device: torch.device, cost: Cost) -> str:
    """Name the kind of memory of which the peaks are given."""
    if cost.peak_mib is None:
        return "not measured: this system does not let a process reset its peak"
    return "GPU allocator" if device.type == "cuda" else "resident set of the process"


def reset_peak(device: torch.device) -> bool:
    """Start a new measurement of peak memory; False if the system does not let us."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def read_peak(device: torch.device) -> float:
    """Peak memory in MiB since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) / 1024


@dataclass
class Clock:
    """Seconds of each training step and its tokens; a run taken up again keeps them."""

    device: torch.device
    steps: list[float] = field(default_factory=list)
    tokens: int = 0  # real ones
    padded: int = 0  # places computed, padding included
    processor_seconds: float = 0.0  # of all steps
    started: float = 0.0
    busy: float = 0.0
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def start(self) -> None:
        self.busy = time.process_time()
        if self.device.type == "cuda":
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            pair[0].record()
            self.events.append(pair)
        else:
            self.started = time.perf_counter()

    def count(self, tokens: int, places: int) -> None:
        self.tokens += tokens
        self.padded += places

    def stop(self) -> None:
        self.processor_seconds += time.process_time() - self.busy
        if self.device.type == "cuda":
            self.events[-1][1].record()
        else:
            self.steps.append(time.perf_counter() - self.started)

    def seconds(self) -> list[float]:
        """Seconds of every step so far."""
        if self.events:
            # Waiting for the GPU only here keeps the steps themselves free of it.
            torch.cuda.synchronize(self.device)
            self.steps += [begin.elapsed_time(end) / 1000 for begin, end in self.events]
            self.events.clear()
        return self.steps

    def summary(self) -> dict[str, float]:
        """Step time (median, first and ninth decile), and throughput in real tokens."""
        steps = self.seconds()
        deciles = statistics.quantiles(steps, n=10) if len(steps) > 1 else [steps[0]] * 9
        return {
            "steps": len(steps),
            "step_seconds_median": statistics.median(steps),
            "step_seconds_p10": deciles[0],
            "step_seconds_p90": deciles[8],
            "tokens_per_second": self.tokens / sum(steps),
            "tokens": self.tokens,
            "padded_tokens": self.padded,
        }


def count_parameters(model: Model) -> dict[str, int]:
    """Trained parameters of the backbone (the method's), of the head, and all there are."""

    def size(module: nn.Module, trained: bool) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)

    return {
        "trained": size(model.backbone, trained=True),
        "trained_with_head": size(model, trained=True),
        "head": size(model.head, trained=False),
        "total": size(model, trained=False),
    }


def count_flops(
    model: Model, penalty: Callable[[], Tensor | float], parts: Sequence[Batch]
) -> dict[str, float]:
    """Floating-point operations per token place, padding included, of one training step.

    Counted as 2 m n k for each product of matrices that the step really makes, forward and
    backward, the method's own and recomputed ones too; elementwise work is left out.
    """
    model.train()
    forward = backward = 0
    # PyTorch has no count for its fused attention on CPUs, and one for the products it stands for.
    with sdpa_kernel(SDPBackend.MATH):
        for part in parts:
            with FlopCounterMode(display=False) as counter:
                loss = model.loss(part)[0] + penalty() / len(parts)
            forward += counter.get_total_flops()
            with FlopCounterMode(display=False) as counter:
                loss.backward()
            backward += counter.get_total_flops()
    model.zero_grad()
    places = sum(model.engine.count_positions(part) for part in parts)
    return {
        "forward_per_token": forward / places,
        "training_per_token": (forward + backward) / places,
    }


@torch.no_grad()
def latency(model: Model, batch: Batch, budget: float = 2.0) -> dict[str, float]:
    """Milliseconds of one forward pass with the adapter in place and merged, measured in turn."""
    model.eval()
    adapted = dict(adapter_layers(model.backbone))
    merged = {name: layer.merge() for name, layer in adapted.items()}
    times: dict[str, list[float]] = {"adapted": [], "merged": []}
    deadline = time.perf_counter() + budget
    while len(times["merged"]) < 3 or (
        len(times["merged"]) < PASSES and time.perf_counter() < deadline
    ):
        for form, layers in (("adapted", adapted), ("merged", merged)):
            for name, layer in layers.items():
                replace_module(model.backbone, name, layer)
            times[form].append(seconds_of(lambda: model(batch), batch.device))
    for name, layer in adapted.items():
        replace_module(model.backbone, name, layer)
    # The first pass of each form pays for what is set up once.
    medians = {f"{form}_ms": 1000 * statistics.median(all_[1:]) for form, all_ in times.items()}
    return {"batch": len(batch.rows), **medians}


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of a call, the GPU's work included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
