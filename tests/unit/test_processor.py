"""How a processor is used: tried, recorded, and the same after a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from experiments.machine import processor
from experiments.machine.processor import ByFloat32, choice, fastest, threads_for
from experiments.running.job import prepare_run
from experiments.running.runner import execute
from experiments.settings.config import Run


@pytest.mark.parametrize(
    ("seconds", "error", "expected"),
    [
        (0.5, 1e-7, "medium"),
        (0.5, 3e-7, "medium"),  # of a matrix of 576 columns, by sums in another order
        (0.8, 1e-7, "highest"),
        (0.5, 5e-5, "highest"),
        (2.0, 0.0, "highest"),
    ],
)
def test_the_other_way_must_be_faster_and_exact(
    seconds: float, error: float, expected: str
) -> None:
    errors = {"highest": 1e-7, "medium": error}
    assert choice({"highest": 1.0, "medium": seconds}, errors) == expected


def test_trying_leaves_the_setting_as_it_was() -> None:
    fastest.cache_clear()
    before = torch.get_float32_matmul_precision()
    assert fastest(64) in ("highest", "medium")
    assert torch.get_float32_matmul_precision() == before


def test_every_process_of_a_machine_multiplies_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answers = iter(["medium", "highest", "highest", "medium"])
    monkeypatch.setattr(processor, "measure_products", lambda width: next(answers))

    def asked(width: int) -> str:
        fastest.cache_clear()  # as in another process
        return fastest(width)

    assert [asked(64), asked(64), asked(128), asked(64)] == [
        "medium",
        "medium",
        "highest",
        "medium",
    ]
    for path in tmp_path.rglob("*.json"):
        path.write_text("{")
    assert asked(64) == "highest", "A damaged file is measured anew."
    monkeypatch.setattr(processor, "cache_folder", lambda: None)
    assert asked(64) == "medium"
    fastest.cache_clear()


def test_a_run_uses_and_records_what_was_found(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.running.job.fastest", lambda width: "medium")
    seen = []
    monkeypatch.setattr(
        "experiments.training.optimizer.FlatAdamW.gather",
        lambda self: seen.append(torch.get_float32_matmul_precision()),
    )
    result = execute(tiny_run("lora", "train.epochs=0.2"), tmp_path / "a")
    assert set(seen) == {"medium"} and result.provenance["float32_products"] == "medium"
    assert torch.get_float32_matmul_precision() == "highest"
    # transformers' attention is slow under it.
    padded = tiny_run("lora", "train.epochs=0.2", "compute.engine=transformers")
    assert execute(padded, tmp_path / "b").provenance["float32_products"] == "highest"


def test_a_job_sets_nothing_and_says_what_is_to_be_set(
    tiny_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.running.job.fastest", lambda width: "medium")
    run = tiny_run("lora", "train.epochs=0.2")
    before = torch.get_num_threads()
    with processor.configure_products("high", 2):
        job = prepare_run(run, run.task.load(run.data))
        assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("high", 2)
    assert (job.products, job.threads) == ("medium", 1)
    with pytest.raises(KeyError), processor.configure_products(job.products, 3):
        assert torch.get_num_threads() == 3
        raise KeyError
    assert torch.get_float32_matmul_precision() == processor.DEFAULT
    assert torch.get_num_threads() == before


def test_a_restart_keeps_the_way_it_began_with(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("lora", "record.checkpoint_every=0", "record.log_every=1")
    monkeypatch.setattr("experiments.running.job.fastest", lambda width: "medium")

    class Killed(BaseException):
        pass

    from experiments.running.checkpoints import Checkpoints

    save = Checkpoints.save

    def killed(self: Checkpoints, step: int) -> None:
        save(self, step)
        if step == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "save", killed)
        execute(run, tmp_path)
    monkeypatch.setattr("experiments.running.job.fastest", lambda width: "highest")
    assert execute(run, tmp_path).provenance["float32_products"] == "medium"
    assert torch.get_float32_matmul_precision() == processor.DEFAULT


def test_products_of_bfloat16_by_float32_are_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w, bias = (
        torch.randn(shape, generator=generator).bfloat16() for shape in ((9, 7), (5, 7), (5,))
    )
    stacked = torch.randn(3, 9, 7, generator=generator).bfloat16()
    products: dict[str, Callable] = {
        "mm": lambda x, w, bias, stacked: x @ w.T,
        "addmm": lambda x, w, bias, stacked: torch.addmm(bias, x, w.T, alpha=0.5),
        "linear": lambda x, w, bias, stacked: torch.nn.functional.linear(stacked, w, bias),
        "bmm": lambda x, w, bias, stacked: stacked @ stacked.mT,
        "baddbmm": lambda x, w, bias, stacked: torch.baddbmm(
            bias[:3, None, None], stacked, stacked.mT
        ),
    }
    for name, product in products.items():
        with ByFloat32():
            found = product(x, w, bias, stacked)
        exact = product(*(tensor.double() for tensor in (x, w, bias, stacked)))
        assert found.dtype == torch.bfloat16, name
        # Half of the last of eight bits, and what float32 itself rounds away.
        assert ((found.double() - exact).abs() <= exact.abs() * 1.004 * 2**-8 + 1e-6).all(), name


def test_a_gradient_of_bfloat16_is_made_by_float32_too() -> None:
    x, w = torch.randn(9, 7).bfloat16(), torch.randn(5, 7).bfloat16()
    x.requires_grad_()
    with ByFloat32():
        torch.nn.functional.linear(x, w).sum().backward()
    expected = torch.ones(9, 5) @ w.float()
    assert x.grad is not None and torch.equal(x.grad, expected.bfloat16())


@pytest.mark.parametrize(("known", "way"), [(True, "native"), (False, "float32")])
def test_a_run_in_bfloat16_goes_by_float32_where_the_processor_knows_none(
    known: bool,
    way: str,
    tiny_run: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: known)
    seen = []
    one = ByFloat32.__torch_dispatch__
    monkeypatch.setattr(
        ByFloat32,
        "__torch_dispatch__",
        lambda self, func, *rest: seen.append(func) or one(self, func, *rest),
    )
    short = "train.epochs=0.2"
    result = execute(tiny_run("lora", short, "train.precision=bf16"), tmp_path / "a")
    assert bool(seen) == (not known) and result.provenance["bfloat16_products"] == way
    seen.clear()
    execute(tiny_run("lora", short), tmp_path / "b")
    assert not seen


def test_a_narrow_model_has_one_thread_and_leaves_the_others_as_they_were(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    assert threads_for(64) == 1 and threads_for(768) == torch.get_num_threads()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    result = execute(tiny_run("lora", "train.epochs=0.2"), tmp_path)
    assert result.provenance["threads"] == 1 and torch.get_num_threads() == 2
    torch.set_num_threads(before)
