"""Gated feed-forwards: an activation of one half times the other, in one pass."""

from typing import Any

import numpy as np

from experiments.backbones.compiled.base import compile_kernel, get, overload, power, put

SILU, GELU = 0, 1  # which activation; GELU is that by tanh
RATE, CUBE = 1.5957691216057308, 0.044715  # 2 sqrt(2 / pi), and what stands before a^3


def open_share(a: Any) -> Any:
    """1 / (1 + e^-a)."""


@overload(open_share, inline="always")
def _open_share(a):
    def share(a):
        e = power(-abs(a))
        return (1 if a >= 0 else e) / (1 + e)

    return share


@compile_kernel
def gate(first: int, step: int, like: Any, a: Any, b: Any, kind: int, out: Any) -> None:
    """out [n, d] = act(a) b, where act(a) = a / (1 + e^-z): SiLU's z is a."""
    n, d = a.shape
    number = like.dtype.type
    rate, cube = number(RATE), number(CUBE)
    row, z = np.empty(d, like.dtype), np.empty(d, like.dtype)
    for i in range(first, n, step):
        for j in range(d):
            row[j] = get(a, i, j)
            z[j] = row[j]
        if kind == GELU:
            for j in range(d):
                z[j] = rate * row[j] * (number(1) + cube * row[j] * row[j])
        for j in range(d):
            z[j] = number(open_share(z[j]))
        for j in range(d):
            put(out, i, j, row[j] * z[j] * get(b, i, j))


@compile_kernel
def gate_backward(
    first: int, step: int, like: Any, to_out: Any, a: Any, b: Any, kind: int, to_a: Any, to_b: Any
) -> None:
    """The gradients to a and b of `gate` from that to its output."""
    n, d = a.shape
    number = like.dtype.type
    rate, cube, one = number(RATE), number(CUBE), number(1)
    row, z, slope = (np.empty(d, like.dtype), np.empty(d, like.dtype), np.empty(d, like.dtype))
    for i in range(first, n, step):
        for j in range(d):
            row[j] = get(a, i, j)
            z[j] = row[j]
            slope[j] = one
        if kind == GELU:
            for j in range(d):
                square = cube * row[j] * row[j]
                z[j] = rate * row[j] * (one + square)
                slope[j] = rate * (one + number(3) * square)
        for j in range(d):
            z[j] = number(open_share(z[j]))
        for j in range(d):
            grad = get(to_out, i, j)
            put(to_b, i, j, grad * row[j] * z[j])
            inner = z[j] * (one + row[j] * (one - z[j]) * slope[j])
            put(to_a, i, j, grad * get(b, i, j) * inner)
