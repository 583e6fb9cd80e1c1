"""Attention, norms, gates, dropout and the loss of tokens on a processor, each in one pass over
memory, compiled by numba.

Arrays are float32 or float64, or bfloat16 as its bits in uint16, and then sums are made in
float32. Every kernel does the pieces `first`, `first + step`, ... of its work, so that threads can
share it, and gives the same bits however many they are. numba keeps what it has compiled until a
file of this folder changes.
"""
