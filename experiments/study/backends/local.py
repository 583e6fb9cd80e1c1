"""Cells on this machine, each in a process of its own: what happens to one, happens to no other."""

import multiprocessing
import os
import pkgutil
import resource
import runpy
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import joblib

from experiments.disk.files import open_to_append
from experiments.study.backends.base import BEGIN, OUTPUT, Backend, W, Workers

RUN = Path(__file__).parents[3] / "run.py"


@dataclass(frozen=True)
class CellLimits:
    """The limits of the process of a cell."""

    threads: int
    gpu: int | None
    memory: float | None  # GiB


@dataclass(frozen=True, kw_only=True)
class Local(Backend):
    """The cores and the GPUs of this machine."""

    per_gpu: int  # cells at once on each GPU
    memory: float | None  # GiB a cell may take; null: no limit

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("per_gpu", "memory"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"backend.{name} must be positive, got {value}.")

    def workers(self) -> "Processes[Any]":
        return Processes(self)


@dataclass
class Processes(Workers[W]):
    """A number of slots, each with a process that carries out one cell, or with none.

    The processes are forked from one that has imported everything and computed nothing, so that a
    cell starts at once and all share the memory of the libraries.
    """

    settings: Local
    busy: dict[int, tuple[W, BaseProcess]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import torch  # here, so that who asks for the state of a study does not wait

        gpus = torch.cuda.device_count()
        cores = joblib.cpu_count()
        self.number = self.settings.max_parallel or gpus * self.settings.per_gpu or cores
        self.own_threads = max(1, cores // self.number)
        self.gpus = gpus
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(sources())

    @property
    def slots(self) -> int:
        return self.number

    @property
    def threads(self) -> int:
        return self.own_threads

    @property
    def running(self) -> set[W]:
        return {cell for cell, _ in self.busy.values()}

    @property
    def free(self) -> list[int]:
        """The slots without a process."""
        return [slot for slot in range(self.number) if slot not in self.busy]

    def start(self, cell: W) -> None:
        slot = self.free[0]
        gpu = slot % self.gpus if self.gpus else None
        limits = CellLimits(self.own_threads, gpu, self.settings.memory)
        # The process that all are forked from may stand elsewhere.
        args = (cell.overrides, Path.cwd(), cell.folder, dict(os.environ), limits)
        process = self.context.Process(target=run_cell, args=args)
        with without_main(), own_code():
            process.start()
        self.busy[slot] = (cell, process)

    def ended(self) -> Iterator[tuple[W, int]]:
        for slot, (cell, process) in list(self.busy.items()):
            if process.exitcode is not None:
                process.join()
                del self.busy[slot]
                yield cell, process.exitcode

    def stop(self) -> None:
        for _, process in self.busy.values():
            process.terminate()
        for _, process in self.busy.values():
            process.join()
        self.busy.clear()


@contextmanager
def without_main() -> Iterator[None]:
    """Keep processes that are started in the block from running the caller's script once more."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def own_code() -> Iterator[None]:
    """Let a process that is started in the block find the modules of this one's project.

    The working folder may have an `experiments` of its own, and an installation may be of another
    clone; both would come before the place that this process reads from.
    """
    changed = {"PYTHONPATH": str(RUN.parent), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ.get(name) for name in changed}
    if before["PYTHONPATH"]:
        changed["PYTHONPATH"] += os.pathsep + before["PYTHONPATH"]
    os.environ |= changed
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


# No run uses it, and transformers' Trainer, which it imports, takes more memory than many a run.
TRAINER = "variants.hf"


def sources() -> list[str]:
    """Every module of a run: a file that is edited meanwhile does not divide a study's cells."""
    return [
        module.name
        for room in ("experiments", "variants")
        for module in pkgutil.walk_packages([str(RUN.parent / room)], f"{room}.")
        if not module.name.endswith("__main__") and module.name != TRAINER
    ]


def run_cell(
    overrides: tuple[str, ...],
    place: Path,
    folder: Path,
    environment: dict[str, str],
    limits: CellLimits,
) -> None:
    """The process of a cell: `python run.py OVERRIDES` in a place, its output in a file."""
    os.chdir(place)
    os.environ.clear()
    os.environ |= environment
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if limits.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_devices(limits.gpu)
    if limits.memory is not None:
        limit = int(limits.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import torch

    torch.set_num_threads(limits.threads)
    with open_to_append(folder / OUTPUT) as output:
        output.write(f"{BEGIN}by process {os.getpid()}\n".encode())
        output.flush()
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
            cast(TextIOWrapper, stream).reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.argv = [str(RUN), *overrides]
    runpy.run_path(str(RUN), run_name="__main__")


def end_with_parent() -> None:
    """End this process when the study's has ended, however that came."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def visible_devices(gpu: int) -> str:
    """The GPU's name, if only some of the machine's are to be seen."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return seen.split(",")[gpu] if seen else str(gpu)
