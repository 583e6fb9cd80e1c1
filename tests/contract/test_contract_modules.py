"""Every method on every odd module: right, or refused in one sentence; `odd_modules` has both."""

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from accelerate import cpu_offload
from modules import ADAPTERS, METHODS, QUANTISED, method, nudge, only_layer
from odd_modules import ODD, try_out
from torch.testing import assert_close

from variants.base import merge

NEVER = ("router", "codes", "no shape", "inference")  # what no method that adds layers can take
APART = ("subclass", "hook", "hook before", "own forward")  # what no plain layer equals


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", METHODS)
def test_it_is_right_or_refused_in_one_sentence(name: str, kind: str) -> None:
    if name == "last_k":
        return  # it is about blocks, which these have none of
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*does not call: prepare")  # without data
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        if ODD[kind].warns:
            warnings.filterwarnings("ignore", message=".*hold the weights of several matrices")
        if kind == "tied":
            warnings.filterwarnings("ignore", message=".*shared its weight")
        cell = try_out(name, ODD[kind])
    if name in ("lora", "dora", "vera"):
        assert (cell.refused is not None) == (kind in NEVER), cell.refused
        assert (cell.unmerged is not None) == (kind in APART), cell.unmerged


def reads_weight(name: str) -> bool:
    """Whether a method computes its update with W0 itself."""
    model = nn.Sequential(nn.Linear(16, 16))
    method(name, "0").adapt(model)
    nudge(model)
    layer, changes = only_layer(model), []
    for _ in range(2):
        layer.reset_cache()
        changes.append(layer.compute_change().detach())
        layer.base.weight.data *= 2
    return not torch.allclose(*changes, atol=1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_base_that_is_offloaded_is_called_and_never_passed_by(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16))
    method(name, "0").adapt(model)
    nudge(model)
    layer = only_layer(model.eval())
    few, many = torch.randn(2, 16), torch.randn(120, 16)
    expected = [model(x).detach() for x in (few, many)]
    cpu_offload(layer.base, torch.device("cpu"), offload_buffers=True)
    for x, y in zip((few, many), expected, strict=True):
        try:
            assert_close(model(x), y)
        except ValueError as error:
            assert "is on the meta device" in str(error)
            assert name in QUANTISED or reads_weight(name)
    with pytest.raises(ValueError, match=r"^0 cannot be merged\. .*(hooks|meta device)"):
        merge(model)


def test_layers_that_are_sharded_one_by_one(tmp_path: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for name in ADAPTERS:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(16, 16))
            method(name, "0").adapt(model)
            nudge(model)
            few, many = torch.randn(2, 16), torch.randn(120, 16)
            expected = [model(x).detach() for x in (few, many)]
            fully_shard(only_layer(model).base, mesh=mesh)
            for x, y in zip((few, many), expected, strict=True):
                assert_close(model(x), y)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("tokens", [2, 120])
@pytest.mark.parametrize("name", ADAPTERS)
def test_it_compiles_without_a_graph_break(name: str, tokens: int) -> None:
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(16, 16))
    torch.manual_seed(0)
    method(name, "0").adapt(model)
    nudge(model)
    x = torch.randn(tokens, 16)
    found = torch.compile(model, fullgraph=True, backend="eager")(x)
    found.sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    expected = model(x)
    expected.sum().backward()
    assert_close(found, expected)
    for n, p in model.named_parameters():
        if p.requires_grad:
            assert_close(grads[n], p.grad, rtol=1e-4, atol=1e-5)
