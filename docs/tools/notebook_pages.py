"""A notebook as a page: its prose, its code, and what it has shown."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repository import ROOT

MAGIC = re.compile(r"^%(?!%).*\n", re.MULTILINE)
LOOKS = re.compile(r' (?:border="1"|class="dataframe"|style="[^"]*")')  # the page has its own
STYLE = re.compile(r"<style.*?</style>", re.DOTALL)


def read(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def write_page(path: Path) -> str:
    """The page on a notebook."""
    parts = []
    for place, cell in enumerate(read(path)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        code = MAGIC.sub("", source)
        if code.strip():
            parts.append(f"```python\n{code.rstrip()}\n```")
        for number, output in enumerate(cell["outputs"]):
            parts.append(show(output, name_picture(path, place, number)))
    return "\n\n".join(parts)


def show(output: dict[str, Any], picture: str) -> str:
    """One output of a cell in Markdown."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![What the cell above draws.]({picture})"
    if "text/html" in data:
        return LOOKS.sub("", STYLE.sub("", "".join(data["text/html"])))
    text = "".join(data.get("text/plain", output.get("text", "")))
    return f'<div class="output" markdown>\n\n```text\n{text.rstrip()}\n```\n\n</div>'


def name_picture(path: Path, place: int, number: int) -> str:
    """The file name of a picture that a cell has drawn."""
    return f"{path.stem}-{place}-{number}.png"


def list_pictures() -> Iterator[tuple[str, bytes]]:
    """The pictures of all notebooks."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for place, cell in enumerate(read(path)):
            for number, output in enumerate(cell.get("outputs", [])):
                if "image/png" in output.get("data", {}):
                    picture = "".join(output["data"]["image/png"])
                    yield name_picture(path, place, number), base64.b64decode(picture)
