"""Results of earlier versions: their own commands find them where they lie."""

import json
from pathlib import Path

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from experiments.results.identity import identity, plain, short_hash
from experiments.settings.compose import compose_config
from experiments.settings.config import describe, read
from experiments.stored import result as stored

PUBLISHED = ROOT / "results" / "minilm_glue"
RUNS = sorted(path.parent for path in PUBLISHED.rglob(stored.NAME))
SOME = [RUNS[i] for i in range(0, len(RUNS), 13)]  # 18 of them, of every method and task


@pytest.mark.parametrize("folder", SOME, ids=lambda folder: "/".join(folder.parts[-4:]))
def test_the_command_of_a_published_run_finds_it(folder: Path) -> None:
    content = stored.read(folder / stored.NAME)
    config = compose_config(*content["overrides"])
    name = f"s{content['seed']}-{short_hash(plain(config, resolve=True))}"
    assert name == folder.name
    now = {"config": json.loads(json.dumps(identity(describe(read(config)))))}
    assert stored.differing(content["fingerprint"] | {"model_files": ""}, 2, now) == []


@pytest.mark.parametrize(
    "record", sorted(ROOT.glob("results/*/studies/*/study.json")), ids=lambda path: path.parent.name
)
def test_a_published_study_is_still_what_its_command_means(record: Path) -> None:
    """Its file may inherit from that of another study, whose changes must not reach it."""
    ran = json.loads(record.read_text())["study"]
    now = OmegaConf.to_container(compose_config(f"study={record.parent.name}").study, resolve=False)
    assert isinstance(now, dict)
    for key in ("methods", "protocols", "search", "trials", "tuning", "tuning_seeds", "seeds"):
        if key in ran:  # old records have fewer settings
            assert now[key] == ran[key], key
    assert ran["tasks"].items() <= now["tasks"].items()
