"""wandb behind two calls; offline unless asked otherwise, and without an account."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.disk.userfolders import cache_folder, can_write
from experiments.results.result import Result

MODES = ("offline", "online", "disabled")


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """How a run is shown to wandb."""

    mode: str  # offline | online | disabled
    project: str  # wandb's project
    entity: str | None  # wandb's user or team; null: the key's own
    group: str | None  # wandb's group of runs
    tags: list[str]  # wandb's tags

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"tracker.mode must be one of {', '.join(MODES)}, got '{self.mode}'.")

    def check_key(self) -> None:
        """Raise ValueError if a run is to go online and nobody is logged in."""
        if self.mode != "online" or os.environ.get("WANDB_API_KEY"):
            return
        if cache_folder() is None:
            raise ValueError(
                "tracker.mode is 'online', and this user has no home directory for wandb's key: "
                "set WANDB_API_KEY or HOME, or set tracker.mode=offline."
            )
        import wandb

        if not wandb.api.api_key:
            raise ValueError(
                "tracker.mode is 'online' and wandb has no key: run 'wandb login', "
                "or set tracker.mode=offline and 'wandb sync' the run later."
            )

    @contextmanager
    def start(self, folder: Path, name: str, config: dict[str, Any]) -> Iterator["Tracked"]:
        """Track a run in its own folder, from its start to its end, good or bad."""
        if self.mode == "disabled":
            yield Tracked(None)
            return
        import wandb  # takes a moment, so only where it is used

        try:
            with own_folders(folder / "wandb"):
                run = wandb.init(
                    mode=self.mode,  # pyright: ignore[reportArgumentType] (checked above)
                    project=self.project,
                    entity=self.entity,
                    group=self.group,
                    tags=self.tags,
                    name=name,
                    dir=folder,
                    config=config,
                    settings=wandb.Settings(console="off", silent=True, init_timeout=30),
                )
        except (wandb.Error, ValueError) as error:  # the second of its settings
            other = (
                "offline keeps the run here" if self.mode == "online" else "disabled does without"
            )
            reason = " ".join(str(error).split())
            raise ValueError(
                f"wandb does not take this run; tracker.mode={other}. ({reason})"
            ) from None
        failed = 1
        # Not as a context manager: that prints a traceback of its own.
        try:
            yield Tracked(run)
            failed = 0
        finally:
            run.finish(exit_code=failed)


@contextmanager
def own_folders(folder: Path) -> Iterator[None]:
    """Tell wandb where its files lie: in this folder if the user has no cache to write to.

    Else it fails, or makes a folder named `~`. Its server, which the block starts, knows a cache by
    the environment alone, and without one prints its log on the screen.
    """
    cache, name = cache_folder(), "XDG_CACHE_HOME"
    if cache is None or not can_write(cache):
        cache = folder.absolute()
        for part in ("CONFIG", "CACHE", "DATA"):
            os.environ.setdefault(f"WANDB_{part}_DIR", str(cache))
    before = os.environ.get(name)
    os.environ[name] = str(cache)
    try:
        yield
    finally:
        del os.environ[name]
        os.environ |= {} if before is None else {name: before}


class Tracked:
    """A run under way."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, record: dict[str, float]) -> None:
        """Send one record of the history."""
        if self.run is not None:
            self.run.log(record, step=int(record["step"]))

    def summarise(self, result: Result) -> None:
        """Send what came out."""
        if self.run is not None:
            self.run.summary.update(
                {"status": result.status, "scores": result.scores, "cost": result.cost}
                | ({"forgetting": result.forgetting} if result.forgetting else {})
            )
