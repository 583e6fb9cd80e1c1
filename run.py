"""Compose, read, execute, write: `python run.py variant=dora task=sst2`, or `--help`."""

import os
import sys
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import experiments.identity  # noqa: F401 (the resolver that names a run's folder)

# A further process of one run leaves the folder, the log and the screen to the first.
SILENT = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Run one cell and return its primary score, which is what a sweeper sees."""
    # Here and not above, so that --help and a mistyped name answer at once.
    from experiments.config import read
    from experiments.distributed import ALONE, launched, leave
    from experiments.recorder import Diverged
    from experiments.results import Origin
    from experiments.runner import execute

    hydra_config = HydraConfig.get()
    # As typed: a reference in an override is not resolved.
    overrides = cast(list[str], OmegaConf.to_container(hydra_config.overrides.task, resolve=False))
    try:
        if launched() != ALONE and (hydra_config.mode == RunMode.MULTIRUN or "study" in cfg):
            raise ValueError("Several processes carry out one run; start each of a multirun alone.")
        if "study" in cfg:
            from experiments.study.command import begin, searched

            name = hydra_config.runtime.choices["study"]
            begin(cfg.study, name, overrides, searched(hydra_config))
            return 0.0
        run = read(cfg)
        origin = Origin(dict(hydra_config.runtime.choices), overrides)
        result = execute(run, Path(hydra_config.runtime.output_dir), origin)
    except (ValueError, OSError, Diverged) as error:
        # Hydra prints this kind as one line; HYDRA_FULL_ERROR=1 shows where it came from.
        raise CompactHydraException(str(error)) from error
    leave()
    return result.primary["score"]


def silence() -> None:
    """Keep this process from writing what the first one writes."""
    # Hydra wants overrides in a row.
    overrides = (i for i, a in enumerate(sys.argv) if i and "=" in a and not a.startswith("-"))
    place = next(overrides, 1)
    sys.argv[place:place] = SILENT
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the end)


if __name__ == "__main__":
    # As torchrun sets them.
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK") != "0":
        silence()
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)  # as a shell reports SIGINT
