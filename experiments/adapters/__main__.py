"""Trained adapters from the shell: look at one, merge it, write it for PEFT, or read another's.

PATH is a finished run or an adapter's folder; for import, a folder of PEFT's or a file of
loralib's.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.adapters.loralib_format import read_loralib
from experiments.adapters.merged import DTYPES, write_merged
from experiments.adapters.peft_format import CONFIG, read_peft, write_peft
from experiments.adapters.saved import ABOUT, Adapter, check_whole, on_base, read_adapter, write
from experiments.disk.files import atomic_folder
from experiments.models.pretrained import Pretrained
from experiments.settings.compose import compose_config
from experiments.settings.scalars import quote
from experiments.settings.sections import build, describe_section
from experiments.stored.kinds import KIND, add_option
from experiments.stored.shown import fail, plain, visible


def main() -> None:
    """The command line."""
    given = arguments()
    try:
        given.action(given)
    except (ValueError, OSError) as error:
        fail(error)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(
        required=True, metavar="inspect|merge|export|import", help="what to do with the adapter"
    )
    path = argparse.ArgumentParser(add_help=False)
    path.add_argument("path", type=Path, metavar="PATH", help="a run, an adapter, or a file")
    add_option(path)
    base = argparse.ArgumentParser(add_help=False, parents=[path])
    base.add_argument("--base", help="folder of the base model, if it has moved")

    inspect = actions.add_parser(
        "inspect", parents=[path], help="say what an adapter is, and how large"
    )
    inspect.set_defaults(action=show)

    merge = actions.add_parser("merge", parents=[base], help="write a plain Hugging Face folder")
    merge.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    merge.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="type of the written weights (float32)"
    )
    merge.set_defaults(action=merge_model)

    export = actions.add_parser("export", parents=[base], help="write PEFT's checkpoint format")
    export.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    export.set_defaults(action=export_adapter)

    take = actions.add_parser("import", parents=[base], help="read PEFT's or loralib's format")
    take.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    take.add_argument("--model", required=True, help="the base model: a name of conf/model")
    take.add_argument("--alpha", type=float, help="alpha of a loralib file, which does not say it")
    take.set_defaults(action=import_adapter)
    return parser.parse_args()


def show(given: argparse.Namespace) -> None:
    """Print what an adapter is."""
    adapter = read_adapter(given.path, given.other)
    check_whole(adapter)
    settings = describe_section(adapter.variant)
    method = settings.pop(KIND)
    table = Table(show_header=False)
    rows: dict[str, Any] = {
        "method": method,
        **{name: value for name, value in settings.items() if name != "targets"},
        "layers": layers(adapter),
        "tensors": f"{len(adapter.state)}, {numbers(adapter.state):,} numbers",
        "head": f"{adapter.num_outputs} outputs {', '.join(adapter.names)}".rstrip()
        if adapter.num_outputs
        else "none",
        "base": f"{adapter.model.name} ({adapter.model.path or adapter.model.package})",
        "weights": adapter.weights,
        "precision": adapter.precision,
    }
    for name, value in rows.items():
        table.add_row(name, plain(value))
    Console().print(table)


def layers(adapter: Adapter) -> str:
    """How many layers have tensors, by the last part of their names."""
    names = {name.rpartition(".")[0] for name in adapter.state} - {""}
    counts = Counter(name.rpartition(".")[2] for name in names)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def numbers(tensors: dict[str, Any]) -> int:
    """How many numbers the tensors hold."""
    return sum(tensor.numel() for tensor in tensors.values())


def merge_model(given: argparse.Namespace) -> None:
    """Write the model without its adapter."""
    write_merged(on_base(read_adapter(given.path, given.other), given.base), given.out, given.dtype)
    print(f"{given.out} is read by transformers' from_pretrained.")


def export_adapter(given: argparse.Namespace) -> None:
    """Write the adapter as PEFT would have."""
    adapter = on_base(read_adapter(given.path, given.other), given.base)
    write_peft(adapter, given.out)
    outputs = f" with num_labels={adapter.num_outputs}" if adapter.num_outputs else ""
    base = visible(adapter.model.path)
    print(f"{given.out} is read by PeftModel.from_pretrained, on {base}{outputs}.")


def import_adapter(given: argparse.Namespace) -> None:
    """Read an adapter of another library and write it as ours."""
    if (given.path / ABOUT).is_file():
        raise ValueError(f"{given.path} is an adapter of this project already.")
    base = build("model", compose_config(f"model={given.model}", *override_base(given.base)).model)
    adapter = other(given.path, base, given.alpha)
    with atomic_folder(given.out) as folder:
        write(adapter, folder)
    head = f"with a head of {adapter.num_outputs} outputs" if adapter.num_outputs else "headless"
    print(f"{given.out} holds the adapter, for {visible(adapter.model.name)}, {head}.")


def override_base(base: str | None) -> list[str]:
    """The overrides that put the base into another folder."""
    return [] if base is None else [f"model.path={quote(base)}", "model.package=null"]


def other(path: Path, base: Pretrained, alpha: float | None) -> Adapter:
    """The adapter at `path`, whoever wrote it."""
    if (path / CONFIG).is_file():
        if alpha is not None:
            raise ValueError(f"--alpha is for loralib's files; {path / CONFIG} says its own.")
        return read_peft(path, base)
    if not path.is_file():
        raise ValueError(f"{path} is neither a folder with {CONFIG} nor a file of loralib's.")
    if alpha is None:
        raise ValueError(f"{path} does not say alpha, which scales the update: give --alpha.")
    return read_loralib(path, base, alpha)


if __name__ == "__main__":
    main()
