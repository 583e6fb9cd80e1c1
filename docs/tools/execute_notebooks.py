"""Execute the notebooks and keep what they show, small and without facts of the machine.

    python docs/tools/execute_notebooks.py [NUMBER ...]

Outputs lose their counts, times and progress lines, paths are told from the repository, and
pictures get few colours. Runs that lie in `outputs/` are read and not repeated.
"""

import argparse
import base64
import io
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parents[2]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# What a run says while it goes on, or if it was there.
PROGRESS = re.compile(r"^(\rstep \d|Already done:|\S+ on \S+ with |\S+: .* -> )")
WIDEST = 900  # pixels of a picture


def execute(path: Path) -> None:
    """Execute one notebook and write it with its outputs."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    NotebookClient(notebook, timeout=1200, kernel_name="python3").execute(cwd=str(path.parent))
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [kept for output in cell.outputs if (kept := keep(output)) is not None]
    notebook.metadata = dict(METADATA)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def keep(output: NotebookNode) -> NotebookNode | None:
    """An output as it is stored; None for one that only tells of progress."""
    if output.output_type == "error":
        raise ValueError(f"{output.ename}: {output.evalue}")
    if output.output_type == "stream":
        if output.name == "stderr" or PROGRESS.search(output.text):
            return None
        output.text = clean(output.text)
        return output
    data = output.data
    if "image/png" in data:
        data = {"image/png": shrink(data["image/png"])}
    elif "text/html" in data:
        data = {"text/html": clean(data["text/html"])}
    elif "text/plain" in data:
        data = {"text/plain": clean(data["text/plain"])}
    else:
        return None
    if output.output_type == "execute_result":
        output.execution_count = None
    output.data, output.metadata = data, {}
    return output


def clean(text: str) -> str:
    """A text without the path of the repository."""
    return text.replace(f"{ROOT}/", "")


def shrink(picture: str) -> str:
    """A picture of few colours, no wider than a page."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.thumbnail((WIDEST, 4 * WIDEST))
    few = image.quantize(96, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(written := io.BytesIO(), format="PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode() + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("numbers", nargs="*", metavar="NUMBER", help="as 01; none: all notebooks")
    numbers = parser.parse_args().numbers
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not numbers or path.stem[:2] in numbers:
            execute(path)
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB", flush=True)


if __name__ == "__main__":
    main()
