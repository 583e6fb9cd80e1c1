"""Products of small matrices."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from experiments.backbones.compiled.base import compile_kernel, intrinsic

ROWS, LANES = 4, 16  # of a tile: as many sums as registers hold, also with vectors of eight


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
def score(C: Any, A: Any, B: Any, m: int, k: int, reach: Any) -> None:
    """C [m, n] = A [m, k] B [k, n], of row i the first `reach[i]` columns, which do not fall.

    As below, C and A have rows up to the next multiple of 4, and C and B columns up to the next of
    16: what stands there is computed too.
    """
    size = C.itemsize
    a_row, c_row, b_row = A.shape[1] * size, C.shape[1] * size, B.shape[1] * size
    for i in range(0, m, ROWS):
        c, a, b = C.ctypes.data + i * c_row, A.ctypes.data + i * a_row, B.ctypes.data
        for j in range(0, reach[min(i + ROWS, m) - 1], LANES):
            tile(C[0, 0], c + j * size, c_row, a, a_row, size, b + j * size, b_row, k)


@compile_kernel
def mix(C: Any, A: Any, B: Any, m: int, n: int, reach: Any) -> None:
    """C [m, n] = A [m, k] B [k, n], where row i of A is zero behind its first `reach[i]`."""
    size = C.itemsize
    a_row, c_row, b_row = A.shape[1] * size, C.shape[1] * size, B.shape[1] * size
    for i in range(0, m, ROWS):
        c, a, b = C.ctypes.data + i * c_row, A.ctypes.data + i * a_row, B.ctypes.data
        k = reach[min(i + ROWS, m) - 1]
        for j in range(0, n, LANES):
            tile(C[0, 0], c + j * size, c_row, a, a_row, size, b + j * size, b_row, k)


@compile_kernel
def collect(C: Any, A: Any, B: Any, m: int, k: int, n: int, reach: Any) -> None:
    """C [m, n] = A^T B with A [k, m], where row i of A is zero behind its first `reach[i]`."""
    size, first = C.itemsize, 0
    a_row, c_row, b_row = A.shape[1] * size, C.shape[1] * size, B.shape[1] * size
    for i in range(0, m, ROWS):
        while first < k and reach[first] <= i:
            first += 1
        c, a = C.ctypes.data + i * c_row, A.ctypes.data + i * size + first * a_row
        b = B.ctypes.data + first * b_row
        for j in range(0, n, LANES):
            tile(C[0, 0], c + j * size, c_row, a, size, a_row, b + j * size, b_row, k - first)
