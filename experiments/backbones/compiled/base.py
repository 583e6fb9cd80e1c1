"""The shared parts of compiled kernels: running them, numbers of every type, dropout, softmax."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import extending, njit, types
from torch import Tensor

from experiments.backbones.compiled.keeping import keep


def compile_kernel(function: Callable) -> Any:
    """A kernel; its sums may be reordered into vectors, and that is all: a NaN stays one."""
    return keep(njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})(function))


def compile_finite_kernel(function: Callable) -> Any:
    """A kernel that meets no NaN."""
    return keep(njit(nogil=True, fastmath={"reassoc", "nnan", "nsz"})(function))


intrinsic: Any = extending.intrinsic  # of which type checkers know nothing
overload = extending.overload  # says what one of the empty functions below is for a type


def run(kernel: Callable[..., None], *args: Any, threads: int | None = None) -> None:
    """Do a kernel's work, by default with as many threads as torch has."""
    threads = threads or torch.get_num_threads()
    given = [array(x) if isinstance(x, Tensor) else x for x in args]
    if threads == 1:
        kernel(0, 1, *given)
    else:
        list(pool(threads).map(lambda first: kernel(first, threads, *given), range(threads)))


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work."""
    return ThreadPoolExecutor(threads)


if hasattr(os, "register_at_fork"):  # a forked process would wait for threads it has not
    os.register_at_fork(after_in_child=pool.cache_clear)


def array(x: Tensor) -> np.ndarray:
    """The values of a tensor, of bfloat16 their bits."""
    x = x.detach().contiguous()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


@intrinsic
def float_of(typing: Any, bits: Any) -> Any:
    """The float32 of these 32 bits."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), code


@intrinsic
def bits_of(typing: Any, x: Any) -> Any:
    """The 32 bits of a float32."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), code


def get(x: Any, i: int, j: int) -> Any:
    """x[i, j] as a number."""


@overload(get, inline="always")
def _get(x, i, j):
    if x.dtype == types.uint16:
        return lambda x, i, j: float_of(np.uint32(np.uint32(x[i, j]) << np.uint32(16)))
    return lambda x, i, j: x[i, j]


def put(x: Any, i: int, j: int, value: Any) -> None:
    """x[i, j] = value, in bfloat16 the nearest, of two the even one."""


@overload(put, inline="always")
def _put(x, i, j, value):
    if x.dtype == types.uint16:

        def rounded(x, i, j, value):
            bits = bits_of(np.float32(value))
            odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
            nearest = np.uint32(np.uint32(bits + odd + np.uint32(0x7FFF)) >> np.uint32(16))
            x[i, j] = np.uint16(nearest | np.uint32(np.uint32(value != value) * np.uint32(0x7FC0)))

        return rounded

    def plain(x, i, j, value):
        x[i, j] = value

    return plain


def power(x: Any) -> Any:
    """e^x for x at most 0."""


@overload(power, inline="always")
def _power(x):
    if x == types.float64:
        return lambda x: math.exp(x)

    def vectorised(x):
        # Cephes' expf: e^x = 2^n e^r, to two units in the last place; libm's takes no vectors.
        x = np.float32(-87) if x < np.float32(-87) else x
        n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
        e = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
        e = (e * r + np.float32(8.3334519073e-3)) * r + np.float32(4.1665795894e-2)
        e = (e * r + np.float32(1.6666665459e-1)) * r + np.float32(5.0000001201e-1)
        e = e * r * r + r + np.float32(1)
        return e * float_of(np.uint32(np.uint32(np.int32(n) + np.int32(127)) << np.uint32(23)))

    return vectorised


@compile_kernel
def mix_bits(x: Any) -> Any:
    """32 bits of which each depends on all of x (Wellons' lowbias32)."""
    x = np.uint32(x ^ np.uint32(x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ np.uint32(x >> np.uint32(16)))


@compile_kernel
def key_of(seed: int, row: int) -> Any:
    """Return the key from which the dropout masks of a row are drawn."""
    low, high = np.uint32(seed), np.uint32(seed >> 32)
    return np.uint32(mix_bits(np.uint32(mix_bits(np.uint32(low + np.uint32(row))) ^ high)))


@compile_kernel
def is_dropped(key: Any, column: int, limit: Any) -> bool:
    """Return whether this element of a row falls out, of 2^32 cases in `limit`."""
    return mix_bits(np.uint32(key ^ np.uint32(np.uint32(column) * np.uint32(0x9E3779B9)))) < limit


@compile_kernel
def limit_of(p: float) -> Any:
    """How many of 2^32 cases the probability p is."""
    return np.uint32(round(p * 4294967296.0))


@compile_kernel
def drop(first: int, step: int, x: Any, out: Any, p: float, seed: int) -> None:
    """out [n, d] = x / (1 - p), or 0 with probability p."""
    n, d = x.shape
    limit, grown = limit_of(p), 1 / (1 - p)
    for i in range(first, n, step):
        key = key_of(seed, i)
        for j in range(d):
            put(out, i, j, 0 if is_dropped(key, j, limit) else get(x, i, j) * grown)


@compile_finite_kernel
def largest(row: Any, n: int) -> Any:
    """The largest of the first n; which of them does not matter if one is no number."""
    found = row[0]
    for j in range(n):
        found = max(found, row[j])
    return found


@compile_kernel
def softmax(row: Any, n: int) -> None:
    """The first n become their softmax."""
    most, total = largest(row, n), row.dtype.type(0)
    for j in range(n):
        row[j] = power(row[j] - most)
    for j in range(n):  # a loop of its own, or neither would be vectors
        total += row[j]
    share = 1 / total
    for j in range(n):
        row[j] *= share
