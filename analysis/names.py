"""Where a matrix stands in a model, read from its dotted name."""

from typing import Any

PROJECTIONS = ("query", "key", "value", "q", "k", "v")  # these need no parent to be understood


def place(name: str) -> dict[str, Any]:
    """Name, number of the layer (from 0; none without a number) and type of the matrix.

    `encoder.layer.3.attention.self.query` is layer 3, query; `h.0.mlp.c_fc` is layer 0, mlp.c_fc.
    """
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    layer = None if number is None else int(parts[number])
    rest = parts if number is None else parts[number + 1 :]
    kind = ".".join(rest).removesuffix(".dense")
    last = kind.rpartition(".")[2]
    return {"name": name, "layer": layer, "matrix": last if last in PROJECTIONS else kind}
