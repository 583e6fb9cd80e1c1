"""Bad input, tried for real: one clear line, a code that is not zero, nothing earned is lost."""

import csv
import json
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from experiments.results.result import Diverged, read_result
from experiments.running.checkpoints import Checkpoints
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import read

ROOT = Path(__file__).parents[2]
SMALL = ("data.train=64", "data.dev=32", "train.epochs=1", "tracker.mode=disabled")
SENTENCES = "sentence\tlabel\n" + "a fine film\t1\na bad film\t0\n" * 8
Shell = Callable[..., Any]


def refused(answer: Any) -> str:
    """The line that a failed command leaves; a traceback is not one."""
    assert answer.code != 0
    assert "Traceback" not in answer.out + answer.err
    assert "result.json" not in answer.out
    return answer.said


def small(*overrides: str) -> Any:
    return read(compose_config(*SMALL, *overrides))


def spoil(path: Path) -> None:
    """Cut a file in the middle, as a broken copy does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def process(*arguments: str, folder: Path, **options: Any) -> subprocess.Popen:
    """A real `python run.py`, on its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


# Settings, from the shell


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("+variant.rnak=4", "variant has no setting 'rnak'. Did you mean 'rank'? LoRA has: lr, "),
        ("+trian.epochs=3", "config has no setting 'trian'. Did you mean 'train'? It has: "),
        ("variant.rank=four", "variant.rank: Value 'four' of type 'str' could not be converted"),
        ("variant.rank=0", "rank must be at least 1, got 0."),
        ("variant.targets=[qury]", "No linear layer is named 'qury'. Did you mean 'query'? This"),
        ("variant.targets=[]", "targets must name at least one linear layer, got none."),
        ("variant.targets=${model.linears.al}", "variant.targets: Interpolation key 'model.line"),
        ("~variant.alpha", "variant.alpha: Structured config of type `LoRA` has missing mandatory"),
        ("~variant", "config has no 'variant'."),
        ("~seed", "config has no 'seed'."),
        ("variant=[lora,dora]", "variant takes one file; several are a multirun: -m variant=A,B."),
        ("data=local", "data.dir: Missing mandatory value"),
        ("train.max_length=129", "train.max_length is 129, and mini_roberta reads at most 128 to"),
        ("train.max_length=2", "train.max_length must leave room for text beside 2 special tokens"),
        ("task.score_on=[]", "task.score_on must name at least one split, got none."),
        ("task=own", "The built-in suite has no task 'own', use data=local data.dir=FOLDER."),
    ],
)
def test_a_wrong_setting_is_one_line(override: str, line: str, shell: Shell, tmp_path: Path):
    assert refused(shell(override, "tracker.mode=disabled")).startswith(line)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("variant=dorra", "There is no variant 'dorra'. Did you mean variant=dora? "),
        ("+experiment=nope", "There is no experiment 'nope'. python -m experiments.list "),
        ("variant.rnak=4", "There is no setting variant.rnak. Did you mean variant.rank? "),
        ("varient=dora", "There is no setting varient. Did you mean variant=dora? "),
    ],
)
def test_an_unknown_name_is_one_line_with_the_near_right_one(
    override: str, line: str, shell: Shell
) -> None:
    for arguments in ([override], [override, "train.epoch=3", "-m"]):
        answer = shell(*arguments)
        assert answer.code == 1 and not answer.out
        (told,) = answer.err.splitlines()
        assert told.startswith(line)


def test_a_new_entry_is_typed_for_the_user(shell: Shell) -> None:
    answer = shell("study=first", "study.methods={bitfit: []}")
    assert answer.err.splitlines() == [
        "study.methods has no 'bitfit' yet: +study.methods={bitfit: []} adds it."
    ]


def test_what_takes_the_place_of_a_section_is_typed_for_the_user(shell: Shell) -> None:
    answer = shell("study=first", "study.axes={variant.lr:[0.001]}")
    assert answer.err.splitlines() == [
        "study.axes={variant.lr:[0.001]} is of another kind than what is there: type '~study.axes' "
        "'+study.axes={variant.lr:[0.001]}' instead."
    ]


def test_a_setting_behind_a_name_with_a_dot_is_typed_for_the_user(shell: Shell) -> None:
    answer = shell("study=first", "study.axes.variant.lr.points=5")
    assert answer.err.splitlines() == [
        "Type 'study.axes={variant.lr: {points: 5}}': a name on the way there has a dot."
    ]


@pytest.mark.parametrize(
    "content, line",
    [
        (b"names: [@a, b]\n", r"found character '@' .*task/mine\.yaml\", line 1, column 9\."),
        (b"names: [a, b\n", r"expected ',' or '\]'.*task/mine\.yaml\", line 2, column 1\."),
        ("names: [schön, 電影]\n".encode("gb18030"), "A file of settings is not UTF-8: "),
    ],
)
def test_a_file_of_settings_that_is_no_yaml_is_one_line(
    content: bytes, line: str, shell: Shell, tmp_path: Path
):
    (tmp_path / "task").mkdir()
    (tmp_path / "task/mine.yaml").write_bytes(content)
    assert re.search(line, refused(shell("--config-dir", str(tmp_path), "task=mine")))


def test_a_reference_in_an_override_is_kept_as_typed(shell: Shell, tmp_path: Path):
    override = "variant.targets=${model.linears.all}"
    assert shell(override, *SMALL).code == 0
    (path,) = tmp_path.rglob("result.json")
    assert json.loads(path.read_text())["overrides"] == [override, *SMALL]


def test_paths_are_told_from_where_the_command_was_typed(shell: Shell, tmp_path: Path):
    (tmp_path / "glue/SST-2").mkdir(parents=True)
    for name in ("train", "dev"):
        (tmp_path / f"glue/SST-2/{name}.tsv").write_text(SENTENCES)
    run = [*SMALL[2:], "task=sst2", "data=local", "data.dir=glue", "train=mini"]
    for mode in ([], ["--multirun"]):
        answer = shell(*run, "hydra.job.chdir=true", f"seed={len(mode)}", *mode)
        assert answer.code == 0, answer.err
    assert len(list((tmp_path / "outputs").rglob("result.json"))) == 2


def test_one_wrong_cell_of_a_multirun_leaves_the_others_their_results(shell: Shell, tmp_path: Path):
    answer = shell("-m", "variant.rank=0,2", *SMALL)
    assert refused(answer) == "rank must be at least 1, got 0."
    assert len(list(tmp_path.rglob("result.json"))) == 1


# What this machine cannot do


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_an_error(device: str, shell: Shell):
    said = refused(shell(f"compute.device={device}", *SMALL))
    assert said == f"compute.device is '{device}', and this machine has no CUDA devices."


def test_a_tracker_without_a_key_is_an_error_at_once(shell: Shell, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    said = refused(shell(*SMALL, "tracker.mode=online", "model=roberta_base"))
    assert said.startswith("tracker.mode is 'online' and wandb has no key: run 'wandb login', or ")


@pytest.mark.parametrize(
    ("choice", "what", "way"),
    [
        ("data=hub", "dataset nyu-mll/glue", "data=local data.dir=FOLDER reads files you have"),
        ("model=roberta_base", "model FacebookAI/roberta-base", "model.path=FOLDER reads files"),
    ],
)
def test_a_hub_out_of_reach_is_one_line_within_seconds(
    choice: str, what: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # As the environment sets them, which the hub's library reads once.
    for name, value in {
        "ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": False,
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    run, start = read(compose_config(choice, "tracker.mode=disabled")), time.monotonic()
    with pytest.raises(OSError) as caught:
        execute(run, tmp_path / "run")
    assert time.monotonic() - start < 10
    said = str(caught.value)
    assert said.startswith(f"No cached copy of {what} ") and way in said and "\n" not in said
    assert "http://127.0.0.1:9 is out of reach" in said


# Data


def table(folder: Path, train: str | bytes, dev: str = SENTENCES) -> str:
    """The overrides for a folder with these files."""
    (folder / "SST-2").mkdir(parents=True)
    data = train if isinstance(train, bytes) else train.encode()
    (folder / "SST-2/train.tsv").write_bytes(data)
    (folder / "SST-2/dev.tsv").write_text(dev)
    return f"data.dir={folder}"


DATA = {
    "malformed": (SENTENCES.replace("a bad", "a\tbad", 1), "line 3 has 3 fields, expected 2: sen"),
    "unknown": (SENTENCES.replace("\t1", "\t2", 1), "line 2: unknown label '2'. Known are: 0, 1."),
    "swapped": (
        SENTENCES.replace("sentence\tlabel", "label\tsentence"),
        "line 2: unknown label 'a fine film'. Known are: 0, 1.",
    ),
    "empty": ("", "is empty."),
    "no rows": ("sentence\tlabel\n", "holds no rows."),
    "no text": (SENTENCES.replace("a bad film", "", 1), "line 3: sentence is empty."),
    "another column": (
        SENTENCES.replace("sentence", "sentense", 1),
        "has no column 'sentence'. Did you mean 'sentense'?",
    ),
    "not UTF-8": (SENTENCES.encode().replace(b"fine", b"f\xefne", 1), "line 2 is not UTF-8: byte"),
}


@pytest.mark.parametrize("fault", DATA)
def test_a_fault_in_the_data_names_file_and_line(fault: str, shell: Shell, tmp_path: Path):
    content, said = DATA[fault]
    where = table(tmp_path / "texts", content)
    line = refused(shell("data=local", where, "tracker.mode=disabled"))
    assert line.startswith(f"{tmp_path}/texts/SST-2/train.tsv") and said in line


def test_a_folder_that_is_not_there_or_the_wrong_one_is_named(shell: Shell, tmp_path: Path):
    table(tmp_path / "texts", SENTENCES)
    said = refused(shell("data=local", f"data.dir={tmp_path}/text"))
    assert said == f"data.dir is not a folder: {tmp_path}/text. Did you mean 'texts'?"
    said = refused(shell("data=local", f"data.dir={tmp_path}/texts/SST-2"))
    assert "data.dir must be the folder that holds SST-2/train.tsv" in said
    said = refused(shell("task=mnli", "data=local", f"data.dir={tmp_path}/texts"))
    assert "data.dir must be the folder that holds MNLI/train.tsv" in said


def test_a_split_to_predict_that_has_no_file_is_named(shell: Shell, tmp_path: Path):
    folder = tmp_path / "texts/MNLI"
    folder.mkdir(parents=True)
    line = "sentence1\tsentence2\tgold_label\na\tb\tneutral\n"
    for name in ("train", "dev_matched", "dev_mismatched"):
        (folder / f"{name}.tsv").write_text(line)
    said = refused(
        shell("task=mnli", "task.predict_on=[ax]", "data=local", f"data.dir={folder.parent}")
    )
    assert "data.dir must be the folder that holds diagnostic/diagnostic.tsv" in said


# Models


def model_with(tiny: Callable[[str], Path], folder: Path, **settings: Any) -> Path:
    """A copy of the tiny RoBERTa, with something else in its config."""
    shutil.copytree(tiny("roberta"), folder)
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def asked(shell: Shell, path: Path | str, *overrides: str) -> str:
    return refused(shell("model=roberta_base", f"model.path={path}", *SMALL, *overrides))


@pytest.mark.parametrize("path", ["/nowhere/at/all", "nowhere/at/all", "./nowhere", ""])
def test_a_model_path_that_does_not_exist_is_named(path: str, shell: Shell):
    assert asked(shell, path) == f"model.path: there is no folder '{path}'."


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "bart"}, "config.json is of an encoder-decoder of type 'bart', and of"),
        ({"model_type": "zork"}, "config.json is of a model of type 'zork', which transformers la"),
        ({"hidden_size": "wide"}, "config.json cannot be read (Validation error for field 'hidden"),
        ({"hidden_size": 64}, "do not fit its config.json: embeddings.LayerNorm.bias has shape [3"),
        ({"num_hidden_layers": 3}, "lack encoder.layer.2.attention.output.LayerNorm.bias (16 ten"),
        ({"vocab_size": 7}, "embeddings.word_embeddings.weight has shape ["),
    ],
)
def test_a_model_of_another_architecture_is_refused(
    settings: dict[str, Any], said: str, shell: Shell, tiny: Callable[[str], Path], tmp_path: Path
):
    folder = model_with(tiny, tmp_path / "model", **settings)
    line = asked(shell, folder)
    assert str(folder) in line and said in line


def remove(path: Path) -> None:
    path.unlink()


def empty_object(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize(
    ("file", "harm", "said"),
    [
        ("model.safetensors", remove, "holds no model.safetensors; weights in other formats are"),
        ("model.safetensors", spoil, "cannot be read (Error while deserializing header: incomple"),
        ("config.json", remove, "config.json cannot be read ([Errno 2] No such file"),
        ("config.json", spoil, "config.json cannot be read ("),
        ("tokenizer.json", remove, "holds no tokenizer: there is no tokenizer.json in it."),
        ("tokenizer.json", spoil, "tokenizer.json cannot be read ("),
        ("tokenizer.json", empty_object, "tokenizer.json does not describe a tokenizer."),
    ],
)
def test_a_model_folder_with_a_file_missing_or_broken_is_refused(
    file: str, harm: Callable[[Path], None], said: str,
    shell: Shell, tiny: Callable[[str], Path], tmp_path: Path,
):  # fmt: skip
    folder = model_with(tiny, tmp_path / "model")
    harm(folder / file)
    line = asked(shell, folder)
    assert str(folder) in line and said in line


def test_a_tokenizer_of_another_model_is_refused(
    shell: Shell, tiny: Callable[[str], Path], tmp_path: Path
):
    folder = model_with(tiny, tmp_path / "model")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["another"] = len(vocabulary)
    path.write_text(json.dumps(tokenizer))
    size = len(vocabulary)
    assert asked(shell, folder) == (
        f"The tokenizer in {folder} has {size} tokens, and its model {size - 1}."
    )


def test_weights_with_another_hash_are_refused(shell: Shell, tiny: Callable[[str], Path]):
    folder = tiny("roberta")
    line = asked(shell, folder, "model.sha256=abc")
    assert line.startswith(f"{folder}/model.safetensors has sha256 ")
    assert line.endswith(", and abc was expected.")


def test_targets_of_another_family_are_refused(shell: Shell, tiny: Callable[[str], Path]):
    line = refused(shell("model=gpt2", f"model.path={tiny('roberta')}", *SMALL))
    assert line == "No linear layer is named 'q'. This model has: dense, key, query, value."


# Training that goes wrong


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("variant.lr=1e30",), "The loss is nan and the gradient's norm nan at step "),
        (
            ("variant.lr=1", "train.clip=null", "train.divergence_ratio=1.01"),
            "(train.divergence_ratio).",
        ),
    ],
)
def test_a_diverged_run_is_recorded_and_stays_so(
    overrides: tuple[str, ...], said: str, shell: Shell, tmp_path: Path
):
    settings = (*SMALL, "record.log_every=1", "train.epochs=3", *overrides)
    first = refused_diverged(shell(*settings))
    (path,) = tmp_path.rglob("result.json")
    assert said in first and first.endswith(f"It is recorded in {path}.")
    result = json.loads(path.read_text())
    assert result["status"] == "diverged" and said in result["failure"]
    assert not (path.parent / "UNFINISHED").exists()
    assert not (path.parent / "adapter.safetensors").exists()
    assert len(read_result(path.parent).history) >= 1
    second = refused_diverged(shell(*settings))
    assert second == (
        f"{path.parent} holds a diverged run: {result['failure']} Delete it to try again."
    )


def refused_diverged(answer: Any) -> str:
    assert answer.code != 0 and "Traceback" not in answer.err
    return answer.said


def test_a_run_whose_last_step_breaks_the_model_is_diverged(tmp_path: Path):
    # The loss of the only step is computed before the weights move.
    with pytest.raises(Diverged, match=r"The outputs of 32 of 32 examples of dev are no numbers\."):
        execute(small("variant.lr=1e30", "train.batch_size=64", "train.warmup=0"), tmp_path)
    assert read_result(tmp_path).status == "diverged"


def test_predicting_with_a_diverged_run_is_an_error(tmp_path: Path, capsys):
    with pytest.raises(Diverged):
        execute(small("variant.lr=1e30", "record.log_every=1"), tmp_path)
    assert "holds a diverged run, which left no adapter" in ask(capsys, tmp_path, "--text", "a")


# What lies in the folder of a run


def test_the_result_of_another_configuration_is_not_passed_for_this_one(tmp_path: Path):
    execute(small(), tmp_path)
    with pytest.raises(
        ValueError, match=r"the result of another run \(the config differ\); delete"
    ):
        execute(small("variant.rank=2"), tmp_path)


def test_the_result_on_other_data_is_not_passed_for_this_one(tmp_path: Path, shell: Shell):
    where = table(tmp_path / "texts", SENTENCES)
    settings = ("data=local", where, "train.epochs=1", "tracker.mode=disabled")
    assert shell(*settings).code == 0
    (tmp_path / "texts/SST-2/dev.tsv").write_text(SENTENCES + "good\t1\n")
    assert "the result of another run (the data differ); delete it" in refused(shell(*settings))


def test_a_truncated_result_is_named(tmp_path: Path):
    execute(small(), tmp_path)
    spoil(tmp_path / "result.json")
    with pytest.raises(ValueError, match=r"result\.json is not valid JSON"):
        execute(small(), tmp_path)


def test_the_result_of_another_schema_is_named(tmp_path: Path):
    (tmp_path / "result.json").write_text('{"schema": 0}')
    with pytest.raises(
        ValueError, match=r"result\.json has schema 0, and this version reads 2, 3, 4\."
    ):
        execute(small(), tmp_path)


class Stopped(Exception):  # noqa: N818
    """Ends a run in the middle, as a power cut would."""


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the checkpoint of a run that was stopped after three steps."""
    save = Checkpoints.save

    def stop(recorder: Checkpoints, step: int) -> None:
        save(recorder, step)
        if step == 3:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(Stopped):
            execute(small(*OFTEN), tmp_path)
    assert (tmp_path / "checkpoint.safetensors").is_file()
    assert not (tmp_path / "result.json").exists()
    return tmp_path


OFTEN = ("train.epochs=3", "record.log_every=1", "record.checkpoint_every=0")


def test_a_truncated_checkpoint_is_named_with_the_way_on(unfinished: Path):
    spoil(unfinished / "checkpoint.safetensors")
    with pytest.raises(ValueError) as caught:
        execute(small(*OFTEN), unfinished)
    said = str(caught.value)
    assert said.startswith(f"{unfinished}/checkpoint.safetensors cannot be read (")
    assert said.endswith("; delete it to start over.")


def test_a_checkpoint_of_something_else_is_named_with_the_way_on(unfinished: Path):
    path = unfinished / "checkpoint.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(ValueError) as caught:
        execute(small(*OFTEN), unfinished)
    assert str(caught.value) == f"{path} is no checkpoint of a run; delete it to start over."


def test_the_checkpoint_of_another_configuration_is_not_continued(unfinished: Path):
    with pytest.raises(ValueError, match="the unfinished run of another configuration or other"):
        execute(small(*OFTEN, "variant.rank=2"), unfinished)
    assert (unfinished / "checkpoint.safetensors").is_file()


# Asking a trained run


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    execute(small(), folder)
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A finished run that may be broken."""
    return Path(shutil.copytree(trained_once, tmp_path / "trained"))


def ask(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """What `python -m experiments.predict` says where it refuses."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr("sys.argv", ["predict", str(folder), *arguments])
        runpy.run_path(str(ROOT / "experiments/predict.py"), run_name="__main__")
    assert stopped.value.code != 0
    said = str(stopped.value.code)
    assert said.startswith("error: ") and "\n" not in said
    return said.removeprefix("error: ")


@pytest.mark.parametrize(
    ("file", "harm", "said"),
    [
        ("result.json", remove, "holds no finished run: there is no result.json in it."),
        ("result.json", spoil, "result.json is not valid JSON ("),
        ("adapter.safetensors", spoil, "adapter.safetensors cannot be read ("),
        ("adapter.safetensors", remove, "adapter.safetensors cannot be read ("),
        ("head.safetensors", remove, "head.safetensors cannot be read ("),
    ],
)
def test_a_run_with_a_file_missing_or_broken_does_not_predict(
    file: str, harm: Callable[[Path], None], said: str, trained: Path, capsys
):
    harm(trained / file)
    assert said in ask(capsys, trained, "--text", "a fine film")


def test_a_folder_that_is_no_run_does_not_predict(tmp_path: Path, capsys):
    said = ask(capsys, tmp_path / "none", "--text", "a fine film")
    assert said == f"{tmp_path}/none holds no finished run: there is no result.json in it."


def test_the_adapter_of_another_run_does_not_predict(trained: Path, tmp_path: Path, capsys):
    execute(small("variant.rank=2"), tmp_path / "other")
    shutil.copy(tmp_path / "other/adapter.safetensors", trained)
    said = ask(capsys, trained, "--text", "a fine film")
    assert "has shape [2, 128] in the file, and [8, 128] in the model." in said
    assert str(trained / "adapter.safetensors") in said


def test_other_base_weights_do_not_predict(trained: Path, capsys):
    path = trained / "adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "abc"}))
    said = ask(capsys, trained, "--text", "a fine film")
    assert said.startswith(f"{trained} was trained on weights with sha256 abc, and model 'mini_rob")


def test_two_texts_for_a_task_of_one_are_an_error(trained: Path, capsys):
    said = ask(capsys, trained, "--text", "a fine film", "a bad film")
    assert said == "Task 'sst2' takes one text (sentence), got 2."


def test_a_text_without_words_is_an_error(trained: Path, capsys):
    assert ask(capsys, trained, "--text", " ").startswith("--text, row 1: sentence is empty.")


def test_a_table_without_the_texts_is_an_error(trained: Path, tmp_path: Path, capsys):
    path = tmp_path / "texts.csv"
    assert ask(capsys, trained, "--file", str(path)) == f"There is no file {path}."
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["sentense"], ["a fine film"]])
    assert "has no column 'sentence'. Did you mean 'sentense'?" in ask(
        capsys, trained, "--file", str(path)
    )


def test_predictions_that_cannot_be_written_are_an_error(trained: Path, tmp_path: Path, capsys):
    said = ask(capsys, trained, "--text", "a fine film", "--out", str(tmp_path / "no/table.csv"))
    assert str(tmp_path / "no") in said


# A process that is stopped or has no room


def limit_file_size() -> None:
    """As on a full disk, a file grows to 40 KiB and no further."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 1024, 40 * 1024))


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_an_error_under_way_is_one_line_however_the_run_is_tracked(
    mode: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any) -> None:
        raise OSError("There is no room left.")

    monkeypatch.setattr(Checkpoints, "save", fail)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert refused(shell(*SMALL, f"tracker.mode={mode}")) == "There is no room left."


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_what_was_earned_stays(tmp_path: Path):
    run = process(*SMALL, *OFTEN, folder=tmp_path, preexec_fn=limit_file_size)
    _, error = run.communicate(timeout=120)
    assert run.returncode != 0 and "Traceback" not in error
    (history,) = tmp_path.rglob("history.jsonl")
    assert f"{history.parent / 'checkpoint.safetensors'} could not be written: " in error
    assert json.loads(history.read_text().splitlines()[0])["step"] == 1
    assert (history.parent / "UNFINISHED").is_file()
    assert not (history.parent / "result.json").exists()
    assert not list(history.parent.glob(".*.unfinished"))


@pytest.mark.slow
def test_a_run_that_is_interrupted_says_so_and_goes_on_later(tmp_path: Path):
    # A shell without job control starts its background jobs, and so their children, deaf to this.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    run = process(*SMALL, *OFTEN, "train.epochs=2000", folder=tmp_path, **heard)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("checkpoint.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130
    assert error.strip() == "Interrupted; the same command goes on from the last checkpoint."
    (folder,) = (path.parent for path in tmp_path.rglob("checkpoint.safetensors"))
    assert (folder / "UNFINISHED").is_file()
    assert not (folder / "result.json").exists()
    assert load_file(folder / "checkpoint.safetensors")


def test_too_little_memory_is_one_line(shell: Callable) -> None:
    answer = shell("variant.rank=1000000000", "tracker.mode=disabled", "data.train=32")
    assert answer.code == 1
    assert answer.said.startswith("There is too little memory for this run")
