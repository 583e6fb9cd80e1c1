"""Attention, norms, dropout and the loss of tokens on a processor, each in one pass over memory,
compiled by numba.

Arrays are float32 or float64, or bfloat16 as its bits in uint16, and then sums are made in
float32. Every kernel does the pieces `first`, `first + step`, ... of its work, so that threads can
share it, and gives the same bits however many they are. `kernels.py` and `language.py` call them.

They stand in one file, as numba keeps what it has compiled until the file changes that it is from.
"""

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
from numba.core import cgutils
from torch import Tensor

from experiments.backbones.keeping import keep


def compile_kernel(function: Callable) -> Any:
    """A kernel; its sums may be reordered into vectors, and that is all: a NaN stays one."""
    return keep(njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})(function))


def compile_finite_kernel(function: Callable) -> Any:
    """A kernel that meets no NaN."""
    return keep(njit(nogil=True, fastmath={"reassoc", "nnan", "nsz"})(function))


intrinsic: Any = extending.intrinsic  # of which type checkers know nothing
overload = extending.overload  # says what one of the empty functions below is for a type
ROWS, LANES = 4, 16  # of a tile: as many sums as registers hold, also with vectors of eight


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


@compile_kernel
def add_norm(
    first: int, step: int, h: Any, x: Any, weight: Any, bias: Any, eps: float, p: float, seed: int,
    y: Any, total: Any, scale: Any,
) -> None:  # fmt: skip
    """total [n, d] = x + dropped h, or x, and y its layer norm; scale [n, 1] is 1 / deviation."""
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
        for j in range(d):
            put(total, i, j, row[j])
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


@intrinsic
def tile(typing, zero, C, c_row, A, a_row, a_column, B, b_row, k):
    """C [4, 16] = A [4, k] B [k, 16] in the type of `zero`, its sums held in registers.

    Matrices are addresses; beside them stands how far rows and columns lie apart, in bytes.
    """
    kind = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}[zero]
    lanes, lane, index = ir.VectorType(kind, LANES), ir.IntType(32), ir.IntType(64)

    def code(context, builder, signature, args):
        _, C, c_row, A, a_row, a_column, B, b_row, k = args

        def place(base, i, row, kind):
            address = builder.add(base, builder.mul(i, row))
            return builder.inttoptr(address, kind.as_pointer())

        def spread(number):
            start = ir.Constant(lanes, ir.Undefined)
            vector = builder.insert_element(start, number, ir.Constant(lane, 0))
            everywhere = ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)
            return builder.shuffle_vector(vector, start, everywhere)

        rows = [ir.Constant(index, i) for i in range(ROWS)]
        none = ir.Constant(lanes, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, none) for _ in rows]
        with cgutils.for_range(builder, k) as loop:
            b = builder.load(place(B, loop.index, b_row, lanes), align=4)
            column = builder.add(A, builder.mul(loop.index, a_column))
            for i, total in zip(rows, sums, strict=True):
                a = spread(builder.load(place(column, i, a_row, kind)))
                more = builder.fmul(a, b, flags=["contract"])
                builder.store(builder.fadd(builder.load(total), more, flags=["contract"]), total)
        for i, total in zip(rows, sums, strict=True):
            builder.store(builder.load(total), place(C, i, c_row, lanes), align=4)
        return context.get_dummy_value()

    return types.void(zero, *[types.intp] * 8), code


@compile_kernel
def product(C: Any, A: Any, B: Any, m: int, k: int, n: int, transposed: bool) -> None:
    """C [m, n] = A [m, k] B [k, n], or A^T B with A [k, m]; only these parts of the arrays count.

    C and A have rows, or A columns, up to the next multiple of 4, and C and B columns up to the
    next of 16: what stands there is computed too.
    """
    size = C.itemsize
    a_row, a_column = A.shape[1] * size, size
    if transposed:
        a_row, a_column = a_column, a_row
    c_row, b_row = C.shape[1] * size, B.shape[1] * size
    for j in range(0, n, LANES):
        for i in range(0, m, ROWS):
            c, a, b = C.ctypes.data + i * c_row, A.ctypes.data + i * a_row, B.ctypes.data
            tile(C[0, 0], c + j * size, c_row, a, a_row, a_column, b + j * size, b_row, k)


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


@compile_kernel
def read(x: Any, start: int, n: int, factor: Any, out: Any) -> None:
    """out [heads, n, d] = factor times n rows of x, head by head."""
    heads = len(out)
    d = x.shape[1] // heads
    for i in range(n):
        for head in range(heads):
            for j in range(d):
                out[head, i, j] = get(x, start + i, head * d + j) * factor


@compile_kernel
def write(x: Any, start: int, n: int, factor: Any, values: Any) -> None:
    """n rows of x = factor times values [heads, n, d]."""
    heads = len(values)
    d = x.shape[1] // heads
    for i in range(n):
        for head in range(heads):
            for j in range(d):
                put(x, start + i, head * d + j, values[head, i, j] * factor)


@compile_kernel
def transpose(x: Any, n: int, d: int, out: Any) -> None:
    """out [d, n] = x [n, d] transposed."""
    for i in range(n):
        for j in range(d):
            out[j, i] = x[i, j]


@compile_kernel
def widest(ends: Any, of: int) -> int:
    """The largest difference of neighbours, or the next multiple."""
    most = 1
    for i in range(1, len(ends)):
        most = max(most, ends[i] - ends[i - 1])
    return (most + of - 1) // of * of


@compile_kernel
def attention(
    first: int, step: int, like: Any, q: Any, k: Any, v: Any, starts: Any, query_starts: Any,
    query_positions: Any, heads: int, groups: int, causal: bool, p: float, seed: int, out: Any,
) -> None:  # fmt: skip
    """out [m, d] = softmax(q k^T / sqrt(d / heads)) v in each example and head.

    k and v have `groups` heads, each for as many neighbouring heads of q. Example e has tokens
    `starts[e]` to `starts[e + 1]`, of which those at `query_positions` attend: queries
    `query_starts[e]` to `query_starts[e + 1]`, rows of q. Sums are made in the type of `like`.
    """
    d, kind, share = k.shape[1] // groups, like.dtype, heads // groups
    scale, grown, limit = kind.type(1 / math.sqrt(d)), kind.type(1 / (1 - p)), limit_of(p)
    T, M, D = widest(starts, LANES), widest(query_starts, ROWS), (d + LANES - 1) // LANES * LANES
    Q, Y = np.empty((heads, M, D), kind), np.empty((heads, M, D), kind)
    K, V = np.empty((groups, T, D), kind), np.empty((groups, T, D), kind)
    K_T, S = np.empty((d, T), kind), np.empty((M, T), kind)
    for e in range(first, len(starts) - 1, step):
        start, own = starts[e], query_starts[e]
        tokens, queries = starts[e + 1] - start, query_starts[e + 1] - own
        read(q, own, queries, scale, Q)
        read(k, start, tokens, kind.type(1), K)
        read(v, start, tokens, kind.type(1), V)
        for head in range(heads):
            if head % share == 0:
                transpose(K[head // share], tokens, d, K_T)
            product(S, Q[head], K_T, queries, d, tokens, False)
            for i in range(queries):
                seen = query_positions[own + i] - start + 1 if causal else tokens
                softmax(S[i], seen)
                S[i, seen:tokens] = 0
                if p > 0:
                    key = key_of(seed, head * len(query_positions) + own + i)
                    for j in range(seen):
                        S[i, j] *= kind.type(0) if is_dropped(key, start + j, limit) else grown
            product(Y[head], S, V[head // share], queries, tokens, d, False)
        write(out, own, queries, kind.type(1), Y)


@compile_kernel
def attention_backward(
    first: int, step: int, like: Any, q: Any, k: Any, v: Any, starts: Any, query_starts: Any,
    query_positions: Any, heads: int, groups: int, causal: bool, p: float, seed: int, to_out: Any,
    to_q: Any, to_k: Any, to_v: Any,
) -> None:  # fmt: skip
    """The gradients to q, k and v from that to the output of `attention`; an empty one is not
    asked for.
    """
    d, kind, share = k.shape[1] // groups, like.dtype, heads // groups
    scale, grown, limit = kind.type(1 / math.sqrt(d)), kind.type(1 / (1 - p)), limit_of(p)
    T, M, D = widest(starts, LANES), widest(query_starts, ROWS), (d + LANES - 1) // LANES * LANES
    Q, G = np.empty((heads, M, D), kind), np.empty((heads, M, D), kind)
    K, V = np.empty((groups, T, D), kind), np.empty((groups, T, D), kind)
    more_k, more_v = np.empty((T, D), kind), np.empty((T, D), kind)  # of one group's heads
    X_T, P, S = np.empty((d, T), kind), np.empty((M, T), kind), np.empty((M, T), kind)
    Y = np.empty((max(M, T), D), kind)
    for_q, for_k, for_v = len(to_q) > 0, len(to_k) > 0, len(to_v) > 0
    mask = np.empty(T, kind)
    for e in range(first, len(starts) - 1, step):
        start, own = starts[e], query_starts[e]
        tokens, queries = starts[e + 1] - start, query_starts[e + 1] - own
        read(q, own, queries, scale, Q)
        read(k, start, tokens, kind.type(1), K)
        read(v, start, tokens, kind.type(1), V)
        read(to_out, own, queries, kind.type(1), G)
        for head in range(heads):
            group, last = head // share, (head + 1) % share == 0
            if head % share == 0:
                more_k[:tokens] = 0
                more_v[:tokens] = 0
            transpose(K[group], tokens, d, X_T)
            product(P, Q[head], X_T, queries, d, tokens, False)
            if for_q or for_k:
                transpose(V[group], tokens, d, X_T)
                product(S, G[head], X_T, queries, d, tokens, False)
            for i in range(queries):
                seen = query_positions[own + i] - start + 1 if causal else tokens
                softmax(P[i], seen)
                if p > 0:
                    key = key_of(seed, head * len(query_positions) + own + i)
                    for j in range(seen):
                        mask[j] = kind.type(0) if is_dropped(key, start + j, limit) else grown
                        S[i, j] *= mask[j]
                along = kind.type(0)
                for j in range(seen):
                    along += P[i, j] * S[i, j]
                for j in range(seen):
                    S[i, j] = P[i, j] * (S[i, j] - along)
                if p > 0:
                    for j in range(seen):
                        P[i, j] *= mask[j]
                S[i, seen:tokens] = 0
                P[i, seen:tokens] = 0
            # What is done with comes to lie where its gradient is written from.
            if for_v:
                product(Y, P, G[head], tokens, queries, d, True)
                more_v[:tokens] += Y[:tokens]
                if last:
                    V[group, :tokens] = more_v[:tokens]
            if for_k:
                product(Y, S, Q[head], tokens, queries, d, True)
                more_k[:tokens] += Y[:tokens]
            if for_q:
                product(Y, S, K[group], queries, tokens, d, False)
                Q[head, :queries] = Y[:queries]
            if for_k and last:
                K[group, :tokens] = more_k[:tokens]
        if for_v:
            write(to_v, start, tokens, kind.type(1), V)
        if for_k:
            write(to_k, start, tokens, kind.type(1), K)
        if for_q:
            write(to_q, own, queries, scale, Q)


@compile_kernel
def cross_entropy(
    first: int, step: int, like: Any, logits: Any, targets: Any, smoothing: float, losses: Any,
    means: Any,
) -> None:  # fmt: skip
    """losses [m] = -log softmax(logits) at the targets, means [m] that of all tokens; the logits
    [m, tokens] become the gradient of (1 - smoothing) losses + smoothing means.
    """
    m, tokens = logits.shape
    kind = like.dtype
    row, flat = np.empty(tokens, kind), kind.type(smoothing / tokens)
    for i in range(first, m, step):
        total, inside = kind.type(0), kind.type(0)
        for j in range(tokens):
            row[j] = get(logits, i, j)
        for j in range(tokens):
            total += row[j]
        most, target = largest(row, tokens), row[targets[i]]
        for j in range(tokens):
            row[j] = power(row[j] - most)
        for j in range(tokens):
            inside += row[j]
        log = most + np.log(inside)
        losses[i] = log - target
        means[i] = log - total / kind.type(tokens)
        share = 1 / inside
        row[targets[i]] -= kind.type(1 - smoothing) * inside
        for j in range(tokens):
            put(logits, i, j, row[j] * share - flat)
