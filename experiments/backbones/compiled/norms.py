"""Norms of layers, with the sum before them."""

from typing import Any

import numpy as np

from experiments.backbones.compiled.base import (
    compile_kernel,
    get,
    is_dropped,
    key_of,
    limit_of,
    put,
)


@compile_kernel
def add_norm(
    first: int, step: int, h: Any, x: Any, weight: Any, bias: Any, eps: float, p: float, seed: int,
    y: Any, total: Any, scale: Any,
) -> None:  # fmt: skip
    """y [n, d] = the layer norm of total = x + dropped h; scale [n, 1] is 1 / deviation.

    An empty h is none, and an empty total is not asked for.
    """
    n, d = x.shape
    limit, grown = limit_of(p), weight.dtype.type(1 / (1 - p))
    row = np.empty(d, weight.dtype)
    for i in range(first, n, step):
        for j in range(d):
            row[j] = get(x, i, j)
        if len(h) and p > 0:
            key = key_of(seed, i)
            for j in range(d):
                row[j] += 0 if is_dropped(key, j, limit) else get(h, i, j) * grown
        elif len(h):
            for j in range(d):
                row[j] += get(h, i, j)
        mean = row.sum() / weight.dtype.type(d)
        square = weight.dtype.type(0)
        for j in range(d):
            square += (row[j] - mean) ** 2
        s = 1 / np.sqrt(square / d + eps)
        scale[i, 0] = s
        if len(total):
            for j in range(d):
                put(total, i, j, row[j])
        for j in range(d):
            put(y, i, j, (row[j] - mean) * s * weight[j] + bias[j])


@compile_kernel
def add_norm_backward(
    first: int, step: int, to_y: Any, to_total: Any, y: Any, scale: Any, weight: Any, bias: Any,
    p: float, seed: int, to_h: Any, to_x: Any,
) -> None:  # fmt: skip
    """The gradients to h and x [n, d] of `add_norm` from those to its outputs, by its y.

    An empty `to_total` is none; an empty `to_h` is not asked for.
    """
    n, d = y.shape
    limit, grown = limit_of(p), weight.dtype.type(1 / (1 - p))
    normal, grad, zero = np.empty(d, weight.dtype), np.empty(d, weight.dtype), weight.dtype.type(0)
    for i in range(first, n, step):
        mean, along = zero, zero
        for j in range(d):
            normal[j] = (get(y, i, j) - bias[j]) / weight[j]
            grad[j] = get(to_y, i, j) * weight[j]
            mean += grad[j]
            along += grad[j] * normal[j]
        mean, along, s = mean / weight.dtype.type(d), along / weight.dtype.type(d), scale[i, 0]
        for j in range(d):
            grad[j] = (grad[j] - mean - normal[j] * along) * s
        if len(to_total):
            for j in range(d):
                grad[j] += get(to_total, i, j)
        for j in range(d):
            put(to_x, i, j, grad[j])
        if len(to_h):
            key = key_of(seed, i)
            for j in range(d):
                put(to_h, i, j, zero if is_dropped(key, j, limit) else grad[j] * grown)


@compile_kernel
def add_rms(
    first: int, step: int, h: Any, x: Any, weight: Any, eps: float, y: Any, total: Any, scale: Any
) -> None:
    """y [n, d] = weight times x + h over its root mean square, and total = x + h.

    An empty h is none, and an empty total is not asked for; scale [n, 1] is 1 / root mean square.
    """
    n, d = x.shape
    row = np.empty(d, weight.dtype)
    for i in range(first, n, step):
        for j in range(d):
            row[j] = get(x, i, j)
        if len(h):
            for j in range(d):
                row[j] += get(h, i, j)
        square = weight.dtype.type(0)
        for j in range(d):
            square += row[j] * row[j]
        s = weight.dtype.type(1 / np.sqrt(square / d + eps))
        scale[i, 0] = s
        if len(total):
            for j in range(d):
                put(total, i, j, row[j])
        for j in range(d):
            put(y, i, j, row[j] * s * weight[j])


@compile_kernel
def add_rms_backward(
    first: int, step: int, to_y: Any, to_total: Any, y: Any, scale: Any, weight: Any, to_x: Any
) -> None:
    """The gradient to x, and to h, of `add_rms` from those to its outputs, by its y.

    An empty `to_total` is none.
    """
    n, d = y.shape
    normal, grad = np.empty(d, weight.dtype), np.empty(d, weight.dtype)
    for i in range(first, n, step):
        along, s = weight.dtype.type(0), scale[i, 0]
        for j in range(d):
            normal[j] = get(y, i, j) / weight[j]
            grad[j] = get(to_y, i, j) * weight[j]
        for j in range(d):
            along += grad[j] * normal[j]
        along = along / weight.dtype.type(d)
        for j in range(d):
            grad[j] = (grad[j] - normal[j] * along) * s
        if len(to_total):
            for j in range(d):
                grad[j] += get(to_total, i, j)
        for j in range(d):
            put(to_x, i, j, grad[j])
