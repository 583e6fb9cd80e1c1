"""Results of earlier versions: their own commands find them where they lie."""

import json
from pathlib import Path

import pytest
from conftest import ROOT

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
