"""Configuration: every file builds, every mistake is named, and one run has one folder."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import CompactHydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.backbones import layers
from experiments.data.tables import HubFiles
from experiments.results.identity import cell_id, identity, plain
from experiments.settings import train
from experiments.settings.commandline import tell_new_name
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, describe, read, restore_run
from experiments.settings.scalars import quote
from experiments.settings.sections import schema
from experiments.settings.train import Compute
from experiments.stored import kinds
from experiments.stored.roles import MOVED, ROLES, Role, regroup, role_of, ungroup

CONF = Path(__file__).parents[2] / "conf"
# A study is a list of runs, and has tests of its own.
FILES = sorted(
    path
    for path in CONF.glob("*/*.yaml")
    if path.parent.name != "study" and path.stem != "common"  # which others start from
)
SECTIONS = [path for path in FILES if path.parent.name != "experiment"]
MISTAKES = (ValueError, CompactHydraException, MissingConfigException)


def name(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


@cache  # composing takes longer than all that is asked of a config, and nothing here changes one
def choose(path: Path) -> DictConfig:
    """The config with this file chosen, and what it leaves to the command line."""
    config = compose_config(name(path))
    if OmegaConf.is_missing(config.data, "dir"):
        config.data.dir = "texts"
    if OmegaConf.is_missing(config.model, "path"):
        config.model.path = "some/model"
    return config


def section(path: Path) -> DictConfig:
    """The settings of a file and of those of its group that it starts from.

    They stand one level deeper where it chooses other files too.
    """
    content = OmegaConf.load(path)
    assert isinstance(content, DictConfig)
    chosen = [one for one in content.get("defaults", []) if isinstance(one, str)]
    started = [section(path.with_name(f"{one}.yaml")) for one in chosen if one != "_self_"]
    own = content.get(path.parent.name, content)
    own.pop("defaults", None)
    merged = OmegaConf.merge(*started, own)
    assert isinstance(merged, DictConfig)
    return merged


@cache
def message(*overrides: str) -> str:
    """What is said of a mistake, with the cause that Hydra prints below it."""
    with pytest.raises(MISTAKES) as caught:
        read(compose_config(*overrides))
    error = caught.value
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return f"{error}\n{cause}"


def written(folder: Path, file: str, text: str) -> str:
    """The override that lets Hydra find a file of one's own."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return f"hydra.searchpath=[file://{folder}]"


def without(text: str, key: str) -> str:
    return "".join(line for line in text.splitlines(True) if not line.startswith(f"{key}:"))


# Files and what they are read as


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_composes_and_builds(path: Path):
    run = read(choose(path))
    assert isinstance(run, Run)
    assert run.paper is None or path.parent.name == "experiment"


@pytest.mark.parametrize("path", SECTIONS, ids=name)
def test_a_file_has_every_setting_of_its_class_and_no_other(path: Path):
    given = section(path)
    cls = schema(path.parent.name, given._target_)
    fields = dataclasses.fields(cls)
    assert {str(key) for key in given} == {"_target_", *(f.name for f in fields)}
    # Only a setting that came later has a default, null, by which older files are still read.
    assert [f.name for f in fields if f.default not in (dataclasses.MISSING, None)] == []
    assert [f.name for f in fields if f.default_factory is not dataclasses.MISSING] == []


@pytest.mark.parametrize("path", sorted((CONF / "task").glob("*.yaml")), ids=name)
def test_the_hub_files_of_a_task_have_every_setting(path: Path):
    hub = section(path).get("hub")
    assert hub is None or set(hub) == {f.name for f in dataclasses.fields(HubFiles)}


@pytest.mark.parametrize("path", SECTIONS, ids=name)
def test_a_name_inside_a_file_is_that_of_the_file(path: Path):
    given = section(path)
    # A model's may say more, as that its weights are rounded, or be that of its folder.
    own = OmegaConf.to_container(given, resolve=False).get("name", path.stem)
    assert own == path.stem or (
        path.parent.name == "model" and own.startswith((f"{path.stem}_", "$"))
    )
    if path.parent.name == "variant":
        assert given._target_.split(".")[:2] == ["variants", path.stem]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_what_a_run_says_of_itself_reads_as_an_equal_run(path: Path):
    run = read(choose(path))
    stored = json.loads(json.dumps(describe(run)))
    assert restore_run(stored) == run


@pytest.mark.parametrize("data", ["local", "hub"])
def test_real_data_chooses_a_training_of_its_size_and_the_command_line_wins(data: str):
    overrides = [f"data={data}", *(["data.dir=texts"] if data == "local" else [])]
    assert compose_config(*overrides).train == section(CONF / "train/glue.yaml")
    for order in ([*overrides, "train=mini"], ["train=mini", *overrides]):
        assert compose_config(*order).train == section(CONF / "train/mini.yaml")
    assert compose_config(*overrides, "train.epochs=7").train.epochs == 7


# Mistakes

TYPOS = {
    "variant=dorra": "There is no variant 'dorra'. Did you mean variant=dora? ",
    "task=sst": "There is no task 'sst'. Did you mean task=sst2?",
    "data=lokal": "There is no data 'lokal'. Did you mean data=local? It is one of hub, lo",
    "+experiment=nope": "There is no experiment 'nope'. python -m experiments.list experiment ",
    "varient=dora": "There is no setting varient. Did you mean variant=dora?",
    "variant.rnak=4": "There is no setting variant.rnak. Did you mean variant.rank? ",
    "~variant.rnak": "There is no setting variant.rnak. Did you mean variant.rank? ",
    "train.epoch=3": "There is no setting train.epoch. Did you mean train.epochs? ",
    "trian.epochs=3": "There is no setting trian.epochs. Did you mean train.epochs? ",
    "epochs=3": "There is no setting epochs. Did you mean train.epochs? ",
    "sed=3": "There is no setting sed. Did you mean seed? ",
    "variant.zzz=3": "There is no setting variant.zzz. It is one of variant.lr, variant.r",
    "+variant.rnak=4": "variant has no setting 'rnak'. Did you mean 'rank'? LoRA has: lr, rank, ",
    "+trian.epochs=3": "config has no setting 'trian'. Did you mean 'train'? It has: variant, task",
    "+task.hub.pth=x": "task.hub.pth: Key 'pth' not in 'HubFiles'.",
    "train.schedule=linaer": "train.schedule must be one of linear, cosine, constant, got 'linaer'",
    "train.precision=fp16": "train.precision must be one of fp32, bf16, got 'fp16'.",
    "compute.device=gpu": "compute.device must be auto, cpu, cuda or cuda:NUMBER, got 'gpu'.",
    "compute.device=cpu:x": "compute.device must be auto, cpu, cuda or cuda:NUMBER, got 'cpu:x'.",
    "tracker.mode=onlin": "tracker.mode must be one of offline, online, disabled, got 'onlin'.",
    "task.predict_on=[ax]": "Task 'sst2' has no split 'ax'. It has: dev, test, train.",
    "task.predict_on=[dev]": "Split 'dev' is in score_on, and so needs no place in predict_on.",
    "task.metrics=[acuracy]": "Did you mean 'accuracy'?",
    "variant._target_=variants.lora.Lora": "module 'variants.lora' has no attribute 'Lora'.",
    "variant._target_=variants.lorra.LoRA": "No module named 'variants.lorra'.",
    "variant._target_=pathlib.Path": "variant._target_ must name a dataclass, got 'pathlib.Path'.",
}
VALUES = {
    "variant.rank=four": "variant.rank: Value 'four' of type 'str' could not be converted to Int",
    "variant.rank=4.5": "variant.rank: Value '4.5' of type 'float' could not be converted to Int",
    "variant.rank=null": "variant.rank: Incompatible value 'None' for field of type 'int'.",
    "variant.rank=0": "rank must be at least 1, got 0.",
    "variant.lr=-1": "variant.lr must not be negative, got -1.0.",
    "variant.lr=nan": "variant.lr must be a finite number, got nan.",
    "variant.targets=query": "variant.targets must be a list such as [query].",
    "task.labels=0": "task.labels must be a list such as [0].",
    "train.divergence_ratio=inf": "train.divergence_ratio must be a finite number, got inf.",
    "train.epochs=inf": "train.epochs must be a finite number, got inf.",
    "train.epochs=0": "train.epochs must be positive, got 0.0.",
    "train.batch_size=0": "train.batch_size must be positive, got 0.",
    "train.accumulate=0": "train.accumulate must be positive, got 0.",
    "record.snapshots=-1": "record.snapshots must not be negative, got -1.",
    "train.examples=0": "train.examples must be positive or null, got 0.",
    "train.warmup=2": "train.warmup is a fraction of all steps, got 2.0.",
    "model.dropout=2": "model.dropout must be null or lie in [0, 1), got 2.0.",
    "model.lr_scale=0": "model.lr_scale must be positive, got 0.0.",
    "seed=one": "seed must be a whole number, got 'one'.",
    "seed=1.5": "seed must be a whole number, got 1.5.",
    "seed=true": "seed must be a whole number, got True.",
    "seed=-1": "seed must lie in [0, 2^63), got -1.",
    "seed=99999999999999999999": "seed must lie in [0, 2^63), got 99999999999999999999.",
    "paper=3": "paper must be of type str | None, got 3.",
}
GAPS = {
    "~seed": "config has no 'seed'.",
    "~variant": "config has no 'variant'.",
    "~variant.alpha": "variant.alpha: Structured config of type `LoRA` has missing mandatory value",
    "~variant._target_": "variant has no _target_, so it is not known what it is.",
    "variant.alpha=???": "variant.alpha: Missing mandatory value",
    "~task.hub.path": "task.hub.path: Structured config of type `HubFiles` has missing mandatory",
    "data=local": "data.dir: Missing mandatory value",
    "variant.targets=${model.linears.al}": (
        "variant.targets: Interpolation key 'model.linears.al' not found."
    ),
    "variant.targets=[${model.linears.al}]": (
        "variant.targets[0]: Interpolation key 'model.linears.al' not found."
    ),
    "seed=${model.sede}": "seed: Interpolation key 'model.sede' not found.",
}


@pytest.mark.parametrize("override", [*TYPOS, *VALUES, *GAPS])
def test_a_mistake_is_named(override: str):
    assert {**TYPOS, **VALUES, **GAPS}[override] in message(override)


@pytest.mark.parametrize("override", [*VALUES, *GAPS])
def test_a_wrong_value_is_one_sentence_that_begins_with_its_key(override: str):
    said = message(override).strip()
    key = override.lstrip("+~").partition("=")[0]
    assert "\n" not in said and said.endswith(".")
    assert key == "data" or key.rpartition(".")[2] in said.partition(" must")[0].partition(":")[0]


def test_a_typo_in_a_yaml_file_is_named_with_the_near_word(tmp_path: Path):
    text = (CONF / "variant/lora.yaml").read_text().replace("rank:", "rnak:")
    found = written(tmp_path, "variant/mine.yaml", text)
    assert message(found, "variant=mine").startswith(
        "variant has no setting 'rnak'. Did you mean 'rank'? LoRA has: lr, rank, alpha, "
    )


WORDS = [
    "no", "yes", "on", "off", "No", "YES", "y", "n", "true", "false", "True", "FALSE", "7", "-7",
    "+7", "007", "0", "-0", "0x1F", "0b11", "0o17", "1_000", "1:30", "12:30:45", "2024-01-01", "=",
    "<", "1.2.3", "1e", "e3", "08", "nan", "inf", "None", "0123456",
]  # fmt: skip


def own_task(folder: Path, **lines: str) -> str:
    """The override for a copy of the template of a task with some lines written otherwise."""
    text = (CONF / "task/own.yaml").read_text()
    for key, value in lines.items():
        text = "".join(
            f"{key}: {value}\n" if line.startswith(f"{key}:") else line
            for line in text.splitlines(True)
        )
    return written(folder, "task/mine.yaml", text)


def test_a_word_is_read_as_it_is_written(tmp_path: Path):
    words = f"[{', '.join(WORDS)}]"
    header = f"{{train: {words}, no: [on, 007], 1:30: [off]}}"
    found = own_task(tmp_path, names=words, labels=words, header=header, label="on")
    task = read(
        compose_config(found, "task=mine", "data=local", "data.dir=.", "task.name=mine")
    ).task
    assert task.names == task.labels == WORDS
    assert task.header == {"train": WORDS, "no": ["on", "007"], "1:30": ["off"]}
    assert task.label == "on"


@pytest.mark.parametrize("word", ["1.10", "1e3", "12345e7", ".nan", "-.inf", "1_0.5", "null", "~"])
def test_a_word_whose_spelling_is_lost_is_to_be_quoted(word: str, tmp_path: Path):
    for setting in ({"names": f"[{word}, other]"}, {"files": f"{{train: {word}, dev: dev.csv}}"}):
        found = own_task(tmp_path, **setting)
        said = message(found, "task=mine", "data=local", "data.dir=.")
        assert "must be a text, and stands for" in said and "put it in quotes." in said
        assert said.startswith(("task.names[0] ", "task.files.train "))
        message.cache_clear()


def test_a_setting_of_another_type_takes_the_other_spellings(tmp_path: Path):
    found = own_task(tmp_path, skip_malformed="yes", allow_empty="off", version="0_2")
    task = read(compose_config(found, "task=mine", "data=local", "data.dir=.")).task
    assert (task.skip_malformed, task.allow_empty, task.version) == (True, False, 2)


PATHS = [
    "/tmp/plain/folder-1.0_x", "it's", 'a "b"', "a\\", "a\\'b", "a,b=c", "[x]", "{a:b}", "${HOME}",
    "x\\${y}", "a$b", "ü è", " ", "tab\there", "null", "True", "12", "1.5", "a#b", "",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_path_stays_what_it_is_in_an_override(path: str):
    assert compose_config(f"model.path={quote(path)}", "model.package=null").model.path == path
    assert list(compose_config(f"+paths=[{quote(path)},b]").paths) == [path, "b"]


def test_other_programs_read_yaml_as_before(tmp_path: Path):
    (tmp_path / "other.yaml").write_text("no: 007")
    compose_config()
    assert OmegaConf.load(tmp_path / "other.yaml") == {False: 7}


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(Compute)])
def test_a_key_deleted_from_a_yaml_file_is_missed(key: str, tmp_path: Path):
    text = without((CONF / "compute/default.yaml").read_text(), key)
    found = written(tmp_path, "compute/mine.yaml", text)
    assert message(found, "compute=mine").startswith(
        f"compute.{key}: Structured config of type `Compute` has missing mandatory value: {key}"
    )


def test_a_recipe_that_leaves_a_key_to_others_is_told_which(tmp_path: Path):
    found = written(tmp_path, "train/mine.yaml", "defaults: [common, _self_]\nepochs: 1.0\n")
    assert message(found, "train=mine").startswith("train.batch_size: Missing mandatory value")


def test_a_misspelt_section_of_a_preset_is_named_with_the_near_word(tmp_path: Path):
    preset = "# @package _global_\ntrian: {epochs: 3}\n"
    found = written(tmp_path, "experiment/mine.yaml", preset)
    assert message(found, "experiment=mine").startswith(
        "config has no setting 'trian'. Did you mean 'train'? It has: variant, task, data, model, "
    )


def test_a_section_that_a_preset_empties_is_missed(tmp_path: Path):
    found = written(tmp_path, "experiment/mine.yaml", "# @package _global_\ntrain: null\n")
    assert message(found, "experiment=mine").startswith("train must be of type Train, got None.")


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (
            "[qury]",
            "No linear layer is named 'qury'. Did you mean 'query'? "
            "This model has: dense, key, query, value.",
        ),
        ("[]", "targets must name at least one linear layer, got none."),
    ],
)
def test_a_target_that_matches_nothing_is_named(
    targets: str, said: str, tiny_run: Callable[..., Run], case: Callable[..., Any]
):
    case = case("lora", f"variant.targets={targets}")
    with pytest.raises(ValueError) as caught:
        case.run.variant.adapt(case.model.backbone)
    assert str(caught.value) == said


# One run, one folder

SAMPLE = ["task=mrpc", "model=roberta_base", "model.revision=a", "train.examples=8", "paper=p",
          "forgetting.file=general.txt"]  # fmt: skip


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dicts and lists with its dotted path."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if isinstance(value, dict | list) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def changed(value: Any) -> Any:
    """Another value, whatever it is."""
    return not value if isinstance(value, bool) else f"{value}x" if value else 1


def folder(cfg: DictConfig) -> str:
    return cfg.hydra.run.dir


PLAIN = describe(read(compose_config(*SAMPLE)))
NAME = cell_id(_root_=OmegaConf.create(PLAIN))


@pytest.mark.parametrize("path", [path for path, _ in leaves(PLAIN)])
def test_the_folder_follows_every_setting_that_can_change_the_result(path: str):
    other = OmegaConf.create(PLAIN)
    OmegaConf.update(other, path, changed(OmegaConf.select(other, path)))
    harmless = role_of(path) is Role.PLACE
    assert (cell_id(_root_=other) == NAME) == harmless


def test_every_setting_with_a_role_exists():
    known = {path for path, _ in leaves(PLAIN)} | set(PLAIN) | {"backend", "study"}
    for path in {*ROLES, *MOVED.values()}:
        group, _, key = path.partition(".")
        assert path in known or key in yaml_keys(group), path


def yaml_keys(group: str) -> set[str]:
    """Return the settings in the files of a group."""
    files = (CONF / group).glob("*.yaml")
    return {str(key) for path in files for key in section(path)}


def test_only_these_settings_do_not_change_the_result():
    assert {key for key, role in ROLES.items() if role is Role.PLACE} == {
        "tracker", "part_of", "study", "backend", "compute.device", "record",
    }  # fmt: skip
    assert role_of("record.snapshots") is Role.RECORD and role_of("variant.lr") is Role.RESULT


OLD = {
    "train.engine=transformers": "compute.engine=transformers",
    "train.lean=true": "compute.recompute_mlp=true",
    "train.explode=3": "train.divergence_ratio=3",
    "train.snapshots=2": "record.snapshots=2",
}


@pytest.mark.parametrize("override", OLD)
def test_a_former_name_of_a_setting_works_and_says_the_present_one(
    override: str, capsys: pytest.CaptureFixture[str]
):
    tell_new_name.cache_clear()
    old, new = compose_config(override), compose_config(OLD[override])
    key = override.lstrip("+").partition("=")[0]
    assert capsys.readouterr().err == (
        f"{key} is called {MOVED[key]} now; the former name still works.\n"
    )
    assert folder(old) == folder(new) and read(old) == read(new)


def test_a_former_name_in_a_file_of_settings_works_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tell_new_name.cache_clear()
    preset = "# @package _global_\ntrain: {snapshots: 3, lean: true}\n"
    found = written(tmp_path, "experiment/mine.yaml", preset)
    run = read(compose_config(found, "experiment=mine"))
    assert run.record.snapshots == 3 and run.compute.recompute_mlp
    assert "train.snapshots is called record.snapshots now" in capsys.readouterr().err


def test_names_of_runs_are_made_from_the_first_places_of_settings():
    config = plain(compose_config("compute.recompute_mlp=true"), resolve=True)
    before = ungroup(identity(config))
    assert before["train"]["lean"] is True and "compute" not in before
    assert before["train"]["_target_"] == "experiments.training.Train"
    assert regroup(before)["compute"]["recompute_mlp"] is True


def test_the_folder_does_not_depend_on_the_order_of_keys():
    def reverse(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: reverse(node[key]) for key in reversed(list(node))}

    other = OmegaConf.create(reverse(PLAIN))
    assert list(other) == list(reversed(list(PLAIN)))
    assert cell_id(_root_=other) == NAME


def test_a_setting_newer_than_a_run_leaves_its_name_as_long_as_nothing_changes() -> None:
    fixed, drawn = (
        compose_config("seed=0", f"train.subset={name}") for name in ("fixed", "per_seed")
    )
    assert "subset" not in identity(plain(fixed, resolve=True))["train"]
    assert cell_id(_root_=fixed) != cell_id(_root_=drawn)


def test_the_identity_leaves_the_description_of_the_run_as_it_is():
    before = json.dumps(PLAIN)
    identity(PLAIN)
    assert json.dumps(PLAIN) == before


@pytest.mark.parametrize(("before", "now"), kinds.MOVED.items())
def test_a_class_of_an_earlier_version_is_found_and_names_the_same_folder(before: str, now: str):
    options = {
        "Paper": ["protocol=paper"],
        "Local": ["data=local", "data.dir=."],
        "Hub": ["data=hub"],
        "Pretrained": ["model=roberta_base"],
    }
    more = options.get(now.rpartition(".")[2], [])
    config = compose_config(*more)
    (section,) = (key for key, node in config.items() if node_target(node) == now)
    old = compose_config(*more, f"{section}._target_={before}")
    assert folder(old) == folder(config)
    assert read(old) == read(config)
    assert kinds.path_of(kinds.load(str(section), before)) == now
    assert kinds.kind_of(before) == kinds.kind_of(now) != before


def node_target(node: Any) -> str | None:
    return node.get("_target_") if isinstance(node, DictConfig) else None


@pytest.mark.parametrize("word", ["all-linear", "attention"])
def test_a_word_for_many_layers_may_stand_alone(word: str) -> None:
    alone, listed = (compose_config(f"variant.targets={text}") for text in (word, f"[{word}]"))
    assert read(alone) == read(listed)


@pytest.mark.parametrize(
    "override",
    ["tracker.mode=disabled", "compute.device=cpu", "record.log_every=1", "hydra.verbose=true"],
)
def test_where_and_how_a_run_is_carried_out_leaves_its_folder(override: str):
    assert folder(compose_config(override)) == folder(compose_config())


def test_another_seed_or_setting_is_another_folder():
    folders = {
        folder(compose_config(o)) for o in ("seed=0", "seed=1", "variant.rank=4", "train.epochs=1")
    }
    assert len(folders) == 4


def test_the_folder_is_the_same_alone_in_a_multirun_and_from_python(
    shell: Callable[..., Any], tmp_path: Path
):
    small = ["data.train=32", "data.dev=16", "train.epochs=1", "tracker.mode=disabled"]
    several = shell("-m", "seed=1,2", *small)
    assert several.code == 0
    for seed in (1, 2):
        expected = tmp_path / folder(compose_config(f"seed={seed}", *small))
        assert (expected / "result.json").is_file()
    alone = shell("seed=2", *small)
    assert alone.code == 0 and "Already done" in alone.out and expected.name in alone.out


def test_the_precisions_that_can_be_asked_for_are_those_there_are():
    assert tuple(layers.PRECISIONS) == train.PRECISIONS
