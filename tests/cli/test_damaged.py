"""Files that are not as they were written: named in one sentence with the way on, never used."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import killed_after
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from analysis import load
from analysis.geometry import checkpoints
from experiments.adapters import saved
from experiments.adapters.swap import Switch
from experiments.data.tables import Part, read_table
from experiments.disk.files import CHECKSUM
from experiments.results.identity import identity
from experiments.results.result import read_result
from experiments.running.checkpoints import Checkpoints
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import read
from experiments.stored import checkpoint, roles, summary
from experiments.stored import result as stored
from experiments.study.command import check_overrides

SMALL = ("data.train=64", "data.dev=32", "train.epochs=3", "train.batch_size=16",
         "tracker.mode=disabled", "record.log_every=1", "record.checkpoint_every=0")  # fmt: skip


def small(*overrides: str) -> Any:
    return read(compose_config(*SMALL, *overrides))


class Stopped(Exception):  # noqa: N818
    """Ends a run in the middle."""


def stopped(folder: Path, *overrides: str, step: int = 6) -> Path:
    """A folder with the checkpoint of a run that was stopped after some steps."""
    save = Checkpoints.save

    def stop(recorder: Checkpoints, number: int) -> None:
        save(recorder, number)
        if number == step:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Checkpoints, "save", stop)
        execute(small(*overrides), folder)
    return folder


@pytest.fixture(scope="session")
def unfinished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tmp_path_factory.mktemp("unfinished"))


@pytest.fixture
def unfinished(unfinished_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unfinished_once, tmp_path / "run"))


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two runs that differ in their seed."""
    folders = {seed: tmp_path_factory.mktemp(f"finished{seed}") for seed in (0, 1)}
    for seed, folder in folders.items():
        execute(small("train.epochs=1", f"seed={seed}"), folder)
    return folders


@pytest.fixture
def finished(finished_once: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_once[0], tmp_path / "run"))


# Tensors: each change of a file, by what it is.


def contents(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {}), load_file(path)


def flip(path: Path, place: float) -> None:
    """Turn one bit over, at a share of the file's length."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def without(path: Path, prefix: str) -> None:
    about, tensors = contents(path)
    save_file({k: t for k, t in tensors.items() if not k.startswith(prefix)}, path, about)


def retyped(path: Path, dtype: torch.dtype) -> None:
    about, tensors = contents(path)
    name = next(k for k, t in tensors.items() if t.dtype == torch.float32 and t.numel() > 1)
    save_file(tensors | {name: tensors[name].to(dtype)}, path, about)


def told(path: Path, **changes: Any) -> None:
    """Change what a checkpoint says of itself."""
    about, tensors = contents(path)
    text = json.dumps({**json.loads(about["about"]), **changes})
    save_file(tensors, path, about | {"about": text})


def unsigned(path: Path) -> None:
    about, tensors = contents(path)
    del about[CHECKSUM]
    save_file(tensors, path, about)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARM: dict[str, Callable[[Path], None]] = {
    "a bit at the front": lambda path: flip(path, 0.3),
    "a bit in the middle": lambda path: flip(path, 0.5),
    "a bit at the end": lambda path: flip(path, 0.999),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(os.urandom(4000)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "half precision": lambda path: retyped(path, torch.float16),
    "double precision": lambda path: retyped(path, torch.float64),
    "whole numbers": lambda path: retyped(path, torch.int32),
    "a pipe": pipe,
    "a folder": folder_instead,
}
OF_CHECKPOINT: dict[str, Callable[[Path], None]] = {
    "another step": lambda path: told(path, step=3),
    "another number of restarts": lambda path: told(path, restarts=5),
    "another schedule": lambda path: told(path, schedule=2),
    "no optimizer": lambda path: without(path, "optimizer."),
    "no generator": lambda path: without(path, "random0."),
    "no learned state": lambda path: without(path, "learned."),
    "no clock": lambda path: without(path, "clock."),
    "no checksum": unsigned,
    "steps as text": lambda path: told(path, step="six"),
    "no history": lambda path: told(path, history=None),
    "another version": lambda path: told(path, format=1),
}


@pytest.mark.parametrize("what", [*HARM, *OF_CHECKPOINT])
def test_a_damaged_checkpoint_is_never_continued(what: str, unfinished: Path) -> None:
    path = unfinished / "checkpoint.safetensors"
    (HARM | OF_CHECKPOINT)[what](path)
    with pytest.raises(ValueError) as caught:
        execute(small(), unfinished)
    said = str(caught.value)
    assert said.startswith(f"{path} ") and said.endswith("; delete it to start over.")
    assert "\n" not in said
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    assert execute(small(), unfinished).status == "complete"


def test_the_checkpoint_of_another_run_is_not_continued(unfinished: Path, tmp_path: Path) -> None:
    other = stopped(tmp_path / "other", "seed=1")
    shutil.copy(other / "checkpoint.safetensors", unfinished)
    with pytest.raises(ValueError, match="unfinished run of another configuration"):
        execute(small(), unfinished)


def test_the_state_of_the_best_epoch_is_the_one_that_was_kept(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run", "protocol=paper", step=12)
    (path,) = folder.glob("best-*.safetensors")
    whole = path.read_bytes()
    for harm in HARM.values():
        harm(path)
        with pytest.raises(ValueError) as caught:
            execute(small("protocol=paper"), folder)
        assert str(path) in str(caught.value) and "delete the folder" in str(caught.value)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        path.write_bytes(whole)
    assert execute(small("protocol=paper"), folder).status == "complete"


@pytest.mark.parametrize("file", ["adapter.safetensors", "head.safetensors"])
@pytest.mark.parametrize("what", HARM)
def test_damaged_tensors_do_not_predict(what: str, file: str, finished: Path) -> None:
    HARM[what](finished / file)
    with pytest.raises(ValueError) as caught:
        saved.restore(finished)
    said = str(caught.value)
    assert said.startswith(f"{finished / file} ") and "\n" not in said
    assert "must be made again" in said or "does not fit" in said


@pytest.mark.parametrize("file", ["adapter.safetensors", "head.safetensors"])
def test_the_tensors_of_another_seed_do_not_predict(
    file: str, finished: Path, finished_once: dict[int, Path]
) -> None:
    shutil.copy(finished_once[1] / file, finished)
    for read_it in (saved.restore, lambda folder: saved.load(saved.read_adapter(folder)), switched):
        with pytest.raises(ValueError, match=f"{file} holds other tensors than adapter"):
            read_it(finished)
    # Nor with the description that belongs to them.
    shutil.copy(finished_once[1] / "adapter.json", finished)
    with pytest.raises(ValueError, match=r"adapter\.json is not of the run it lies with: tensors"):
        saved.read_adapter(finished)


def switched(folder: Path) -> None:
    adapter = saved.read_adapter(folder)
    Switch(adapter.model).add("one", adapter)


@pytest.mark.parametrize(
    ("key", "value"),
    [("variant.alpha", 32.0), ("variant.targets", ["query"]), ("head.names", ["good", "bad"]),
     ("variant.rslora", True), ("precision", "bf16"), ("model.dropout", 0.5)],
)  # fmt: skip
def test_a_description_that_was_changed_is_found_out(key: str, value: Any, finished: Path) -> None:
    path = finished / "adapter.json"
    about = json.loads(path.read_text())
    section, _, name = key.rpartition(".")
    (about[section] if section else about)[name] = value
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=rf"adapter\.json is not of the run .*: {key} is "):
        saved.read_adapter(finished)
    (finished / "result.json").unlink()
    with pytest.raises(ValueError, match=r"adapter\.json is not as it was written|does not fit"):
        saved.load(saved.read_adapter(finished))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("variant", None, "variant must be an object, got None"),
        ("variant", {}, "variant has no _kind_, so it is not known what it is"),
        ("variant._kind_", 3, "variant._kind_ must be a text, got 3"),
        ("variant.rank", 10**9, "variant.rank is 1000000000, and no tensor of"),
        ("variant.rank", "8", "variant.rank must be a whole number, got '8'"),
        ("variant.rank", 0, "rank must be at least 1, got 0"),
        ("variant.alpha", float("nan"), "variant.alpha must be a finite number, got nan"),
        ("variant.alpha", None, "variant.alpha must be a number, got None"),
        ("variant.rnak", 3, "variant has no setting 'rnak'. Did you mean 'rank'?"),
        ("model", [], "model must be an object, got []"),
        ("model.dropout", 2.0, "model.dropout must be null or lie in"),
        ("precision", "int4", "precision must be one of fp32, bf16, got 'int4'"),
        ("precision", [], "precision must be a text, got []"),
        ("weights", None, "weights must be a text, got None"),
        ("head", {"outputs": 10**9, "names": []}, "head.outputs is 1000000000, and no tensor of"),
        ("head", {"outputs": "2", "names": []}, "head.outputs must be a whole number, got '2'"),
        ("head", {}, "head.outputs is missing"),
        ("format", True, "has format True, and this version reads 1 and 2"),
        ("tensors", [], "tensors must be an object, got []"),
    ],
)
def test_a_wrong_value_in_a_description_is_named(
    key: str, value: Any, said: str, finished: Path
) -> None:
    path = finished / "adapter.json"
    (finished / "result.json").unlink()
    about = json.loads(path.read_text())
    section, _, name = key.rpartition(".")
    (about[section] if section else about)[name] = value
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError) as caught:
        saved.read_adapter(finished)
    assert str(caught.value).startswith(str(path)) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_result_that_was_changed_is_found_out(finished: Path) -> None:
    path = finished / "result.json"
    text = path.read_text()
    score = json.loads(text)["primary"]["score"]
    path.write_text(text.replace(f'"score": {score}', '"score": 0.99', 1))
    with pytest.raises(ValueError, match=r"result\.json is not as it was written"):
        read_result(finished)
    content = json.loads(path.read_text())
    del content[CHECKSUM]
    path.write_text(json.dumps(content))
    assert read_result(finished).primary["score"] == 0.99


def test_damaged_predictions_are_found_out(finished: Path, finished_once: dict[int, Path]) -> None:
    path = finished / "predictions.parquet"
    whole = path.read_bytes()
    assert set(read_result(finished).predictions["split"]) == {"dev"}
    for harm in (*(HARM[k] for k in HARM if "precision" not in k and "whole" not in k),
                 lambda path: shutil.copy(finished_once[1] / path.name, path)):  # fmt: skip
        harm(path)
        with pytest.raises(ValueError) as caught:
            _ = read_result(finished).predictions
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        path.write_bytes(whole)


# The base


@pytest.fixture
def on_own_base(tmp_path: Path) -> tuple[Path, Path]:
    """A run, and the copy of the small model that it was trained on."""
    base = tmp_path / "base"
    shutil.copytree(Path(saved.__file__).parents[1] / "mini/weights/mini_roberta", base)
    execute(small("train.epochs=1", f"model.path={base}", "model.sha256=null"), tmp_path / "run")
    return tmp_path / "run", base


def another_epsilon(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))


def other_words(base: Path) -> None:
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[400:402]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("change", [another_epsilon, other_words])
def test_a_base_that_would_answer_otherwise_is_refused(
    change: Callable[[Path], None], on_own_base: tuple[Path, Path], capsys: Any, tmp_path: Path
) -> None:
    run, base = on_own_base
    copy = Path(shutil.copytree(base, tmp_path / "moved"))
    saved.restore(run)
    change(base)
    for read_it in (saved.restore, lambda folder: saved.load(saved.read_adapter(folder)), switched):
        with pytest.raises(ValueError, match=f"was trained with another .* lies in {base} now"):
            read_it(run)
    adapter = saved.on_base(saved.read_adapter(run), str(copy))
    assert saved.load(adapter) and capsys.readouterr().err == ""
    adapter = saved.on_base(saved.read_adapter(run), str(base))
    assert saved.load(adapter) and "it may answer otherwise" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json",
                                  "tokenizer_config.json"])  # fmt: skip
def test_a_pipe_in_a_base_is_not_waited_for(file: str, on_own_base: tuple[Path, Path]) -> None:
    run, base = on_own_base
    pipe(base / file)
    with pytest.raises(ValueError, match=f"{file} cannot be read .it is no regular file"):
        saved.restore(run)
    with pytest.raises(ValueError, match=f"{file} cannot be read .it is no regular file"):
        execute(small(f"model.path={base}", "model.sha256=null"), run.parent / "new")


@pytest.mark.parametrize("text", ["", "5", "a\x01=", "train.epochs"])
def test_an_override_of_a_study_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    content = {"study": {"overrides": ["train.epochs=1"]}, "overrides": ["seed=1", text]}
    with pytest.raises(ValueError, match=r"^overrides has .*, which is no override such as"):
        check_overrides(content)
    content = {"study": {"methods": {"lora": [text]}}, "overrides": []}
    with pytest.raises(ValueError, match=r"^study\.methods\.lora has "):
        check_overrides(content)


@pytest.mark.parametrize("key", ["study", "rows", "cells"])
def test_a_summary_without_a_key_is_not_taken_for_another_programs(
    key: str, tmp_path: Path
) -> None:
    content = {"study": "s", "rows": [], "cells": [], "inflation": []}
    path = tmp_path / summary.NAME
    path.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
    with pytest.raises(ValueError, match=rf"summary\.json: {key}"):
        summary.read(path)
    path.write_text(json.dumps({"loss": 1.0}))
    assert summary.read(path) is None


def test_a_section_that_is_a_text_names_another_run() -> None:
    assert identity({"forgetting": "x" * 500}) == {"forgetting": "x" * 500}
    assert identity({"forgetting": {"file": None}}) == {} == identity({"forgetting": None})


def test_an_unfinished_run_of_earlier_settings_goes_on(
    tiny_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("lora", "record.checkpoint_every=0", "record.log_every=1")
    with killed_after(monkeypatch, 2):
        execute(run, tmp_path)
    about, _ = checkpoint.read(tmp_path / "checkpoint.safetensors")
    key = about["key"] | {"config": roles.ungroup(about["key"]["config"])}
    assert "compute" not in key["config"] and key["config"]["train"]["lean"] is False
    assert (
        stored.upgrade_fingerprint(key) == about["key"] == stored.upgrade_fingerprint(about["key"])
    )


def test_a_message_on_a_checkpoint_of_another_run_names_the_file(
    tiny_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_after(monkeypatch, 2):
        execute(tiny_run("lora", "record.checkpoint_every=0", "record.log_every=1"), tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is of the unfinished run of an"):
        execute(tiny_run("bitfit"), tmp_path)


def test_a_message_on_other_files_of_a_base_names_the_adapters_file(
    tiny_run: Callable[..., Any], tmp_path: Path
) -> None:
    execute(tiny_run("lora", "train.epochs=1"), tmp_path)
    adapter = replace(saved.read_adapter(tmp_path), model_files="0" * 64)
    with pytest.raises(ValueError, match=r"\(model_files in adapter\.json\)"):
        saved.check_base(adapter)


def test_a_snapshot_of_another_run_is_refused(tiny_run: Callable[..., Any], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for seed, folder in enumerate((one, other)):
        execute(tiny_run("lora", "train.epochs=1", "record.snapshots=1", f"seed={seed}"), folder)
    assert len(list(checkpoints(one))) == 1
    (snapshot,) = (one / "snapshots").iterdir()
    shutil.copy(other / "snapshots" / snapshot.name, snapshot)
    with pytest.raises(ValueError, match=r"step-.* is not the snapshot that the run in "):
        list(checkpoints(one))
    pipe(snapshot)
    with pytest.raises(ValueError, match=r"step-.*it is no regular file"):
        list(checkpoints(one))


def test_a_pipe_among_data_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.csv")
    part = Part(task="own", split="train", columns=["text"], file=None, header=None, hub=None,
                skip_malformed=False)  # fmt: skip
    with pytest.raises(ValueError, match=r"train\.csv cannot be read \(it is no regular file\)"):
        read_table(tmp_path / "train.csv", part)


def test_a_run_that_names_no_version_of_torch_is_tabulated(
    tiny_run: Callable[..., Any], tmp_path: Path
) -> None:
    execute(tiny_run("lora", "train.epochs=1"), tmp_path)
    content = stored.read(tmp_path / stored.NAME)
    del content["provenance"]["packages"]["torch"]
    assert load.row(content | {"folder": str(tmp_path)})["torch"] == "not recorded"
