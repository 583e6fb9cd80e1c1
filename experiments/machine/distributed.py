"""One run in several processes, as torchrun starts them: each computes a share of every step.

The gradients of a step are summed before any hook sees them, and all that follows is done by every
process alike, so that their models stay equal bit for bit. The first process evaluates, prints and
writes. The sum is that of one process with the same `train.batch_size` but for its order, and but
for dropout, of which each process draws masks of its own.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whether there are several is known without it
    import torch
    from torch import Tensor

# The first process evaluates while the others wait; that one is gone, the launcher sees.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class World:
    """How many processes carry out a run, and which of them this one is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Return whether this process is the one that evaluates, prints and writes."""
        return self.rank == 0

    def add(self, tensors: "Sequence[Tensor]") -> None:
        """Put the sum over all processes in the place of each tensor."""
        if self.size > 1:
            import torch.distributed as dist

            works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
            for work in works:
                assert work is not None
                work.wait()

    def share(self, value: Any) -> Any:
        """Return the value of the first process in every process."""
        values = [value]
        if self.size > 1:
            import torch.distributed as dist

            dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in order, in every process; tensors must be on the CPU."""
        values = [value]
        if self.size > 1:
            import torch.distributed as dist

            values *= self.size
            dist.all_gather_object(values, value)
        return values


ALONE = World()


def read_world() -> World:
    """The processes that a launcher says there are; one if none says so."""
    world = World(number("RANK", 0), number("WORLD_SIZE", 1))
    return world if world.size > 1 else ALONE


def number(name: str, otherwise: int) -> int:
    """A number that torchrun sets in the environment of each process."""
    if name not in os.environ and "WORLD_SIZE" in os.environ:
        raise ValueError(f"WORLD_SIZE is set and {name} is not; start the processes by torchrun.")
    return int(os.environ.get(name, otherwise))


def local_device(device: "torch.device") -> "torch.device":
    """The GPU of this process if a run has several, else the device itself."""
    if read_world() == ALONE or device.type != "cuda":
        return device
    if device.index is not None:
        raise ValueError(
            f"compute.device={device} is one GPU for {read_world().size} processes; "
            "with compute.device=cuda each takes its own."
        )
    return type(device)("cuda", number("LOCAL_RANK", 0))


def init_process_group(device: "torch.device") -> World:
    """Meet the other processes, if there are any and it has not been done yet."""
    import torch
    import torch.distributed as dist

    world = read_world()
    if world != ALONE and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # What is no tensor of a GPU goes by the processor.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    return world


def shutdown() -> None:
    """Part from the other processes, when all is done."""
    if read_world() == ALONE:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
