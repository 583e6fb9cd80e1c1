"""Attention example by example, with positions turned on the way."""

from typing import Any

import numpy as np

from experiments.backbones.compiled.base import (
    compile_kernel,
    get,
    is_dropped,
    key_of,
    limit_of,
    put,
    softmax,
)
from experiments.backbones.compiled.products import LANES, ROWS, collect, mix, score


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
def turn(values: Any, n: int, cos: Any, sin: Any, places: Any, start: int, sign: Any) -> None:
    """The first r columns of values [heads, n, d] turned by the cosines and sines [tokens, r] at
    `places` from `start` on; the other way with sign -1. With none nothing is turned.
    """
    half = cos.shape[1] // 2
    if not len(cos):
        return
    for head in range(len(values)):
        for i in range(n):
            place = places[start + i]
            for j in range(half):
                x, y = values[head, i, j], values[head, i, half + j]
                s = sign * sin[place, j]
                values[head, i, j] = x * cos[place, j] - y * s
                values[head, i, half + j] = y * cos[place, j] + x * s


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
    query_positions: Any, cos: Any, sin: Any, heads: int, groups: int, scale: float, causal: bool,
    p: float, seed: int, out: Any,
) -> None:  # fmt: skip
    """out [m, d] = softmax(scale q k^T) v in each example and head.

    The heads of q and k are turned by `cos` and `sin` [tokens, r] of their positions before, if
    these are not empty. k and v have `groups` heads, each for as many neighbouring heads of q.
    Example e has tokens `starts[e]` to `starts[e + 1]`, of which those at `query_positions` attend:
    queries `query_starts[e]` to `query_starts[e + 1]`, rows of q. Sums are made in the type of
    `like`.
    """
    d, kind, share = k.shape[1] // groups, like.dtype, heads // groups
    factor, grown, limit = kind.type(scale), kind.type(1 / (1 - p)), limit_of(p)
    every = np.arange(len(cos))
    T, M, D = widest(starts, LANES), widest(query_starts, ROWS), (d + LANES - 1) // LANES * LANES
    Q, Y = np.empty((heads, M, D), kind), np.empty((heads, M, D), kind)
    K, V = np.empty((groups, T, D), kind), np.empty((groups, T, D), kind)
    K_T, S, reach = np.empty((d, T), kind), np.empty((M, T), kind), np.empty(M, np.int64)
    for e in range(first, len(starts) - 1, step):
        start, own = starts[e], query_starts[e]
        tokens, queries = starts[e + 1] - start, query_starts[e + 1] - own
        if not queries:
            continue
        for i in range(queries):
            reach[i] = query_positions[own + i] - start + 1 if causal else tokens
        tokens = reach[queries - 1]  # what comes behind the last query is not seen
        read(q, own, queries, factor, Q)
        turn(Q, queries, cos, sin, query_positions, own, kind.type(1))
        read(k, start, tokens, kind.type(1), K)
        turn(K, tokens, cos, sin, every, start, kind.type(1))
        read(v, start, tokens, kind.type(1), V)
        for head in range(heads):
            if head % share == 0:
                transpose(K[head // share], tokens, d, K_T)
            score(S, Q[head], K_T, queries, d, reach)
            for i in range(queries):
                seen = reach[i]
                softmax(S[i], seen)
                S[i, seen:tokens] = 0
                if p > 0:
                    key = key_of(seed, head * len(query_positions) + own + i)
                    for j in range(seen):
                        S[i, j] *= kind.type(0) if is_dropped(key, start + j, limit) else grown
            mix(Y[head], S, V[head // share], queries, d, reach)
        write(out, own, queries, kind.type(1), Y)


@compile_kernel
def differentiate(
    P: Any, S: Any, queries: int, tokens: int, reach: Any, p: float, seed: int, first: int,
    start: int, mask: Any,
) -> None:  # fmt: skip
    """Of one example and head: scores P become probabilities, and gradients to these, S, become
    those to the scores; `first` is the row of the first query among the masks.
    """
    number = mask.dtype.type
    grown, limit = number(1 / (1 - p)), limit_of(p)
    for i in range(queries):
        seen = reach[i]
        softmax(P[i], seen)
        if p > 0:
            key = key_of(seed, first + i)
            for j in range(seen):
                mask[j] = number(0) if is_dropped(key, start + j, limit) else grown
                S[i, j] *= mask[j]
        along = number(0)
        for j in range(seen):
            along += P[i, j] * S[i, j]
        for j in range(seen):
            S[i, j] = P[i, j] * (S[i, j] - along)
        if p > 0:
            for j in range(seen):
                P[i, j] *= mask[j]
        S[i, seen:tokens] = 0
        P[i, seen:tokens] = 0


@compile_kernel
def attention_backward(
    first: int, step: int, like: Any, q: Any, k: Any, v: Any, starts: Any, query_starts: Any,
    query_positions: Any, cos: Any, sin: Any, heads: int, groups: int, scale: float, causal: bool,
    p: float, seed: int, to_out: Any, to_q: Any, to_k: Any, to_v: Any,
) -> None:  # fmt: skip
    """The gradients to q, k and v from that to the output of `attention`; an empty one is not
    asked for.
    """
    d, kind, share = k.shape[1] // groups, like.dtype, heads // groups
    factor, m = kind.type(scale), len(query_positions)
    every = np.arange(len(cos))
    T, M, D = widest(starts, LANES), widest(query_starts, ROWS), (d + LANES - 1) // LANES * LANES
    Q, G = np.empty((heads, M, D), kind), np.empty((heads, M, D), kind)
    K, V = np.empty((groups, T, D), kind), np.empty((groups, T, D), kind)
    more_k, more_v = np.empty((T, D), kind), np.empty((T, D), kind)  # of one group's heads
    X_T, P, S = np.empty((d, T), kind), np.empty((M, T), kind), np.empty((M, T), kind)
    Y = np.empty((max(M, T), D), kind)
    for_q, for_k, for_v = len(to_q) > 0, len(to_k) > 0, len(to_v) > 0
    mask, reach = np.empty(T, kind), np.empty(M, np.int64)
    for e in range(first, len(starts) - 1, step):
        start, own = starts[e], query_starts[e]
        tokens, queries = starts[e + 1] - start, query_starts[e + 1] - own
        read(q, own, queries, factor, Q)
        turn(Q, queries, cos, sin, query_positions, own, kind.type(1))
        read(k, start, tokens, kind.type(1), K)
        turn(K, tokens, cos, sin, every, start, kind.type(1))
        read(v, start, tokens, kind.type(1), V)
        for i in range(queries):
            reach[i] = query_positions[own + i] - start + 1 if causal else tokens
        read(to_out, own, queries, kind.type(1), G)
        for head in range(heads):
            group, last = head // share, (head + 1) % share == 0
            if head % share == 0:
                more_k[:tokens] = 0
                more_v[:tokens] = 0
            transpose(K[group], tokens, d, X_T)
            score(P, Q[head], X_T, queries, d, reach)
            if for_q or for_k:
                transpose(V[group], tokens, d, X_T)
                score(S, G[head], X_T, queries, d, reach)
            differentiate(P, S, queries, tokens, reach, p, seed, head * m + own, start, mask)
            # What is done with comes to lie where its gradient is written from.
            if for_v:
                collect(Y, P, G[head], tokens, queries, d, reach)
                more_v[:tokens] += Y[:tokens]
                if last:
                    V[group, :tokens] = more_v[:tokens]
            if for_k:
                collect(Y, S, Q[head], tokens, queries, d, reach)
                more_k[:tokens] += Y[:tokens]
            if for_q:
                mix(Y, S, K[group], queries, d, reach)
                Q[head, :queries] = Y[:queries]
            if for_k and last:
                K[group, :tokens] = more_k[:tokens]
        if for_v:
            write(to_v, start, tokens, kind.type(1), V)
        if for_k:
            turn(K, tokens, cos, sin, every, start, kind.type(-1))
            write(to_k, start, tokens, kind.type(1), K)
        if for_q:
            turn(Q, queries, cos, sin, query_positions, own, kind.type(-1))
            write(to_q, own, queries, factor, Q)
