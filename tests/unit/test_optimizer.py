"""One buffer for many tensors: the steps are AdamW's, whatever is done to a gradient in between."""

import pytest
import torch
import torch.nn as nn

from experiments.training import optimizer
from experiments.training.optimizer import FlatAdamW


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape).double()) for shape in ((3, 4), (5,), (40, 9), (2, 2))]


def groups(of: list[nn.Parameter]) -> list[dict]:
    return [
        {"params": of[:3], "lr": 0.1, "weight_decay": 0.2},
        {"params": of[3:], "lr": 0.03, "weight_decay": 0.0},
    ]


def loss_of(of: list[nn.Parameter]) -> torch.Tensor:
    return sum((p.sin() * (i + 1)).sum() for i, p in enumerate(of))  # type: ignore[return-value]


def test_steps_are_those_of_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "SMALL", 100)  # the third tensor stays as it is
    ours, theirs = parameters(), parameters()
    flat, plain = FlatAdamW(groups(ours)), torch.optim.AdamW(groups(theirs))
    assert [len(group["params"]) for group in flat.param_groups] == [2, 1]
    for step in range(5):
        for each, moved in ((flat, ours), (plain, theirs)):
            loss_of(moved).backward()
            # A hook may put another tensor in the gradient's place, or change it.
            moved[1].grad = moved[1].grad * 2 + step
            moved[3].grad.mul_(0.5)
            if each is flat:
                flat.gather()
            norm = nn.utils.clip_grad_norm_(
                [p for g in each.param_groups for p in g["params"]], 1.0
            )
            if each is flat:
                expected = norm
            each.step()
            each.zero_grad()
        torch.testing.assert_close(norm, expected)
        torch.testing.assert_close(ours, theirs)
    assert ours[2].grad is None and not ours[0].grad.any()


def test_a_missing_gradient_is_zero_and_not_the_last_one() -> None:
    ours = parameters()
    flat = FlatAdamW(groups(ours))
    loss_of(ours).backward()
    ours[3].grad = None
    flat.gather()
    assert not flat.buffers[1].flat.grad.any()
    assert flat.buffers[0].flat.grad.any()


def test_parameters_keep_values_names_and_shapes() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    optimizer = FlatAdamW([{"params": list(module.parameters()), "lr": 0.1}])
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    module.load_state_dict({name: torch.ones_like(t) for name, t in before.items()})
    assert all(flat.flat.eq(1).all() for flat in optimizer.buffers)
