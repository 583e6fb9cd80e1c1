"""States of the train split below the lowest trained block, computed once.

Nothing in them moves, so with their dropout off a token's state there is the same in every epoch,
and in every run of a sweep that trains only above. That changes the regulariser: it is asked for
by `train.prefix_cache`, and recorded with the run.
"""

import hashlib
import logging
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.data.batches import Encoded
from experiments.disk.files import (
    atomic_write,
    check_record,
    check_regular,
    hash_file,
    read_object,
    remove_unfinished,
    write_record,
)
from experiments.disk.locks import in_turn
from experiments.disk.userfolders import own_cache
from experiments.models.model import Model

log = logging.getLogger(__name__)
BATCH = 64  # examples at a time while it is filled


@dataclass(frozen=True)
class Prefix:
    """The states [tokens, d] before block number `blocks`, in a file that is mapped, not read."""

    path: Path
    blocks: int
    seconds: float  # that filling took; 0 where the file was there

    def states(self, places: np.ndarray) -> Tensor:
        """The states [tokens, d] of the tokens at these places."""
        found = np.load(self.path, mmap_mode="r")[places]
        # NumPy has no bfloat16.
        return torch.from_numpy(found).view(
            torch.bfloat16 if found.itemsize == 2 else torch.float32
        )


def with_prefix(data: Encoded, model: Model) -> Encoded:
    """The examples with the states that the frozen blocks give them, from the cache or into it.

    Raises ValueError if the lowest block trains.
    """
    blocks = model.engine.frozen_blocks(model.backbone)
    if not blocks:
        raise ValueError(
            "train.prefix_cache has nothing to keep: something in the lowest block, or below it, "
            "trains; name targets of upper blocks only, as layer.5.attention.self.query."
        )
    path = (
        own_cache("prefix", "the states of train.prefix_cache") / f"{key(data, model, blocks)}.npy"
    )
    started, seconds = time.perf_counter(), 0.0
    with in_turn(path.with_suffix(".lock")):  # another run that needs it waits for the first one
        if not intact(path):
            remove_unfinished(path.parent, path.name)
            with atomic_write(path) as file:
                fill(file, data, model, blocks)
                content = {"bytes": file.stat().st_size, "sha256_of_file": hash_file(file)}
            # Last, so that states without their checksum are filled anew.
            write_record(path.with_suffix(".json"), content)
            seconds = time.perf_counter() - started
    return replace(data, prefix=Prefix(path, blocks, seconds))


def intact(path: Path) -> bool:
    """Return whether kept states are there and intact; damaged ones are named and removed.

    States that are missing are no fault: they are filled anew.
    """
    about = path.with_suffix(".json")
    if not path.exists() and not about.exists():
        return False
    try:
        content = read_object(about)
        check_record(about, content)
        check_regular(path)
        if path.stat().st_size != content.get("bytes"):
            raise ValueError(f"{path} has another length than it was written with.")
        if hash_file(path) != content.get("sha256_of_file"):
            raise ValueError(f"{path} does not have the checksum it was written with.")
    except ValueError as error:
        log.warning("%s Its states are computed anew.", error)
        remove(path, about)
        return False
    return True


def remove(*paths: Path) -> None:
    """Remove files, and what lies in their places instead."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def take_room(path: Path) -> None:
    """Take room on the disk for all of a file; raises OSError if there is too little.

    Writing to a mapped file for which the disk has no room ends the process without a word.
    """
    allocate = getattr(os, "posix_fallocate", None)  # some systems have none
    if allocate is not None:
        with path.open("r+b") as file:
            allocate(file.fileno(), 0, path.stat().st_size)


@torch.no_grad()
def fill(path: Path, data: Encoded, model: Model, blocks: int) -> None:
    """Write the states of every token, dropout off."""
    training = model.training
    model.eval()
    kept = None
    order = np.argsort(-data.lengths, kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = data.batch(rows).to(next(model.parameters()).device)
        states = model.engine.below(model.backbone, batch, blocks).cpu()
        found = (states.view(torch.uint16) if states.itemsize == 2 else states).numpy()
        if kept is None:
            shape = (int(data.lengths.sum()), found.shape[1])
            kept = np.lib.format.open_memmap(path, mode="w+", dtype=found.dtype, shape=shape)
            take_room(path)
        kept[data.token_positions(rows)] = found
    assert kept is not None
    kept.flush()
    model.train(training)


def key(data: Encoded, model: Model, blocks: int) -> str:
    """The sha256 of all that the states depend on: tokens, config, and every tensor below."""
    config = model.backbone.config.to_json_string(use_diff=False)
    digest = hashlib.sha256(f"{blocks}/{torch.__version__}/{config}".encode())
    for name in sorted(data.columns):
        digest.update(data.columns[name].tobytes())
    digest.update(data.lengths.tobytes())
    for part in model.engine.frozen_part(model.backbone, blocks):
        for tensor in part.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
