"""Models and data from a hub, over its own protocol: what comes, what fails, what stays."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Answer, save_tiny
from hub_shell import DEV, TRAIN, Shell, surroundings, write_sentences
from served_hub import WEIGHTY, Served, commit, served

from experiments.disk import hub

FEW = (
    "train.epochs=1", "train.batch_size=16", "variant.rank=2", "compute.device=cpu",
    "tracker.mode=disabled",
)  # fmt: skip
KINDS = {"data": "datasets", "model": "models"}
WAYS_ON = {
    "data": "data=local data.dir=FOLDER reads files you have, data=mini the built-in suite",
    "model": "model.path=FOLDER reads files you have",
}


def asking(data: str = "sentences", model: str = "tiny") -> list[str]:
    """The overrides of a run whose task and model both come from a hub."""
    return [
        "data=hub", f"task.hub.path=owner/{data}",
        "model=roberta_base", f"model.path=owner/{model}", *FEW,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model and a small task, and one of each that lacks something."""
    root = tmp_path_factory.mktemp("hub")
    save_tiny("roberta", root / "tiny")
    write_sentences(root / "sentences")
    shutil.copytree(root / "tiny", root / "bare", ignore=lambda *_: ["model.safetensors"])
    shutil.copytree(root / "sentences", root / "half", ignore=lambda *_: [Path(DEV).name])
    kinds = {"tiny": "models", "bare": "models", "sentences": "datasets", "half": "datasets"}
    return {f"{kind}/owner/{name}": root / name for name, kind in kinds.items()}


@pytest.fixture(scope="module")
def server(repositories: dict[str, Path]) -> Iterator[Served]:
    with served(repositories) as server:
        yield server


@pytest.fixture(scope="module")
def shell(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("shell"), server.endpoint)
    yield shell
    shell.process.communicate()


def refused(answer: Answer) -> str:
    """The line that a failed command leaves; a traceback is not one."""
    assert answer.code != 0
    assert "Traceback" not in answer.out + answer.err
    assert "->" not in answer.out
    return answer.said


def test_a_run_downloads_model_and_data_and_names_their_commit(shell: Shell, server: Served):
    answer = shell(*asking())
    result = shell.result(answer)
    at = f"owner/sentences@{commit('datasets/owner/sentences')}"
    assert result["examples"]["source"] == {
        "train": f"{at}/sst2/train-*.parquet", "dev": f"{at}/sst2/validation-*.parquet",
    }  # fmt: skip
    assert result["examples"]["available"] == {"train": 32, "dev": 16}
    assert result["label"]["model"] == "roberta_base" and result["status"] == "complete"
    assert "HTTP Request" not in answer.out + answer.err
    asked = len(server.asked)
    assert shell(*asking(), "seed=1").code == 0
    assert len(server.asked) == asked


def test_a_run_from_the_cache_needs_no_hub(shell: Shell):
    first = shell.result(shell(*asking()))
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *asking(), "seed=2"],
        cwd=shell.folder, env=surroundings(shell.home, "http://127.0.0.1:9"),
        capture_output=True, text=True,
    )  # fmt: skip
    second = shell.result(Answer(done.returncode, done.stdout, done.stderr))
    assert second["seed"] == 2
    assert second["examples"]["source"] == first["examples"]["source"]
    for part in ("data", "model"):
        assert second["fingerprint"][part] == first["fingerprint"][part]


ABSENT = {
    "dataset": (
        asking(data="sentense"),
        f"The hub has no public dataset 'owner/sentense'; {WAYS_ON['data']}",
    ),
    "model": (
        asking(model="tinny"),
        f"The hub has no public model 'owner/tinny'; {WAYS_ON['model']}",
    ),
    "revision": (
        [*asking(), "task.hub.revision=v2"],
        "The hub has no public dataset 'owner/sentences' at revision 'v2'; data=local",
    ),
    "file of a dataset": (
        asking(data="half"),
        "The hub has dataset 'owner/half', but in it no sst2/validation-*.parquet; data=local",
    ),
    "file of a model": (
        asking(model="bare"),
        "The hub has model 'owner/bare', but in it no *.safetensors; model.path=FOLDER",
    ),
}


@pytest.mark.parametrize("what", ABSENT)
def test_what_the_hub_does_not_have_is_named(what: str, shell: Shell):
    overrides, said = ABSENT[what]
    assert refused(shell(*overrides)).startswith(said)


FAULTS = [
    ("model", "api", "{hub}/api/models/owner/{name}/revision/main is answered with status 500"),
    ("data", "tree", "/tree/{commit}?recursive=true&expand=false is answered with status 500"),
    ("model", "get", "{hub}/owner/{name}/resolve/{commit}/model.safetensors is answered with"),
    ("data", "gone", f"/owner/{{name}}/resolve/{{commit}}/{TRAIN} is answered with status 404"),
    ("data", "short", "OSError Consistency check failed: file should be of size 1925 but has "),
    ("model", "cut", "RemoteProtocolError peer closed connection without sending complete "),
]


@pytest.mark.parametrize(("kind", "fault", "line"), FAULTS)
def test_a_download_that_fails_is_one_line_and_leaves_nothing_to_be_used(
    kind: str, fault: str, line: str, shell: Shell, server: Served, repositories: dict[str, Path]
):
    name = f"{fault}_{kind}"
    repository = f"{KINDS[kind]}/owner/{name}"
    original = {"data": "datasets/owner/sentences", "model": "models/owner/tiny"}[kind]
    server.repositories[repository] = repositories[original]
    server.faults[repository] = fault
    said = refused(shell(*asking(**{kind: name})))
    assert said.startswith(f"No cached copy of {KINDS[kind][:-1]} owner/{name}, and ")
    assert line.format(hub=server.endpoint, name=name, commit=commit(repository)) in said
    assert said.endswith(f"; {WAYS_ON[kind]}.")
    kept = [path.name for path in shell.cache(repository).glob("snapshots/**/*")]
    assert not [file for file in kept if file.endswith(WEIGHTY)]
    assert not list(shell.cache(repository).rglob("*.incomplete"))

    del server.faults[repository]
    healed, plain = (shell.result(shell(*asking(**chosen))) for chosen in ({kind: name}, {}))
    assert healed["fingerprint"]["data"] == plain["fingerprint"]["data"]
    assert healed["fingerprint"]["model"] == plain["fingerprint"]["model"]
    assert healed["primary"] == plain["primary"]


def test_a_hub_that_is_ill_as_a_whole_is_out_of_reach(shell: Shell, server: Served):
    server.faults[""] = "all"
    try:
        said = refused(shell(*asking(data="unseen")))
    finally:
        del server.faults[""]
    assert f"{server.endpoint} is out of reach: it answers with status 500" in said


def test_a_cache_that_another_program_filled_in_part_is_completed(
    shell: Shell, server: Served, repositories: dict[str, Path]
):
    """Such as one that read the weights and took its tokenizer from elsewhere."""
    server.repositories["models/owner/part"] = repositories["models/owner/tiny"]
    cache, at = shell.cache("models/owner/part"), commit("models/owner/part")
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(at)
    shutil.copytree(
        repositories["models/owner/tiny"], cache / "snapshots" / at,
        ignore=lambda *_: ["tokenizer.json", "tokenizer_config.json"],
    )  # fmt: skip
    assert shell.result(shell(*asking(model="part")))["status"] == "complete"
    assert (cache / "snapshots" / at / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], ""),
        (["train-00000-of-00002.parquet"], "complete train-*.parquet"),
        (["train-00001-of-00002-0a1b2c.parquet"], "complete train-*.parquet"),
        (["train.parquet"], "train-*.parquet"),
        (["dev-00000-of-00001.parquet"], "train-*.parquet"),
    ],
)
def test_one_of_two_parts_is_not_the_data(files: list[str], missing: str, tmp_path: Path):
    for name in files:
        (tmp_path / name).touch()
    assert hub.missing(tmp_path, "dataset", ["train-*.parquet"]) == missing


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        ("model-00002-of-00002.safetensors", "complete *.safetensors"),
        ("config.json", "config.json"),
        ("vocab.txt", "tokenizer.json"),
        (None, ""),
    ],
)
def test_a_model_is_its_config_all_weights_and_a_tokenizer(
    lost: str | None, missing: str, tmp_path: Path
):
    weights = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for name in {"config.json", "vocab.txt", *weights} - {lost}:
        (tmp_path / name).touch()
    assert hub.missing(tmp_path, "model", ["*.json", "*.txt", "*.safetensors"]) == missing
