"""A run that is over already, known by its settings, its data and its weights.

Nothing here imports torch, unless the task, or a run's `start`, needs it to say what the data is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.data.splits import Data
from experiments.machine.distributed import ALONE, read_world
from experiments.models.forgetting import Forgetting
from experiments.models.pretrained import Pretrained
from experiments.results.identity import identity
from experiments.results.result import Result, read_result
from experiments.running.showing import show
from experiments.settings.given import check_config, list_given
from experiments.settings.sections import build
from experiments.stored import kinds
from experiments.stored.result import NAME, differing

NEEDED = ("task", "data", "model", "protocol")  # to know what is trained on, and from which weights


def show_finished(cfg: DictConfig, out: Path) -> Result | None:
    """Show the result of this very run in its folder; None if there is more to do, or to refuse.

    Raises ValueError naming a wrong setting, or a damaged result.
    """
    config = check_config(cfg)
    sections = {key: node for key, node in list_given(cfg).items() if OmegaConf.is_dict(node)}
    # A method's class stands beside its layers, and so is the only one that needs torch.
    built = {key: build(key, node) for key, node in sections.items() if key != kinds.METHODS}
    if not (out / NAME).exists() or read_world() != ALONE or not set(NEEDED) <= built.keys():
        return None
    if any(config[key] is None for key in sections):
        return None
    data = built["protocol"].load(built["task"], built["data"])
    described = {key: kinds.with_kinds(value) for key, value in config.items()}
    key = fingerprint(described, data, built["model"], built.get("forgetting"))
    result = read_result(out)
    same = not differing(result.fingerprint, result.schema, key)
    if not same or result.failure:
        return None
    print("Already done:")
    show(result, built["task"].given)
    return result


def fingerprint(
    config: Mapping[str, Any], data: Data, model: Pretrained, text: Forgetting | None
) -> dict[str, Any]:
    """The settings, data and weights that a result depends on, as hashes of their bytes.

    `config` is the run as plain data, with kinds in place of dotted paths.
    """
    splits = {"train": data.train, **data.score, **data.predict}
    general = {} if text is None or not text.file else {"forgetting": text.read().sha256}
    found = general | {
        "config": identity(config),
        "data": {name: split.sha256 for name, split in splits.items()},
        "model": model.weights_hash(),
        "model_files": model.files_hash(),
    }
    if config.get("start") is not None:
        from experiments.adapters.saved import adapter_hash  # which imports torch

        found["start"] = adapter_hash(Path(config["start"]))
    return found
