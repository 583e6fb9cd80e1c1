"""Where each file of the repository stands in the site, and links between the two."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = ("ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "SECURITY")
LINK = re.compile(r'(\]\(|(?:src|srcset|href)=")([^)\s"]+)([)"])')
FENCE = re.compile(r"^(```.*?^```[ \t]*$)", re.MULTILINE | re.DOTALL)
ELSEWHERE = re.compile(r"^(?:[a-z]+:|#|//)")
METHOD_FILE = re.compile(r"variants/(\w+)\.py")


def list_pages() -> dict[str, str]:
    """The pages that are not in docs/: by the file they are made of, where they stand."""
    pages = {"README.md": "index.md"}
    pages |= {f"{name}.md": f"project/{name.lower()}.md" for name in PROJECT}
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return pages | {f"notebooks/{p.name}": f"notebooks/{p.stem}.md" for p in notebooks}


def find_place(path: str, origin: str) -> str | None:
    """Where a file of the repository stands in the site; None if it stands nowhere.

    The table of methods leads to the page of each method, and every other page to its source.
    """
    pages = list_pages()
    if path in pages:
        return pages[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if origin in pages and path.startswith("notebooks/") and path.endswith(".png"):
        return path  # drawn by a cell
    method = METHOD_FILE.fullmatch(path)
    if method and origin == "docs/methods.md":
        return f"methods/{method[1]}.md"
    if not (ROOT / path).is_file():
        return None
    return path if path.startswith("results/") else f"source/{path.lstrip('.')}.txt"


def split_code(text: str) -> Iterator[tuple[bool, str]]:
    """The parts of a page, each with whether it is a fenced block of code."""
    for part in FENCE.split(text):
        yield part.startswith("```"), part


def resolve(link: str, origin: str) -> tuple[str, str]:
    """The file of the repository that a link in the page `origin` means, and its anchor."""
    target, mark, anchor = link.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    return path, mark + anchor


def list_links(text: str) -> Iterator[str]:
    """The links of a page that stay in the repository."""
    for is_code, part in split_code(text):
        if not is_code:
            yield from (m[2] for m in LINK.finditer(part) if not ELSEWHERE.match(m[2]))


def move_links(text: str, origin: str, place: str) -> str:
    """A page's text, made of the file `origin`, with its links as they are at `place`."""

    def move(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        if ELSEWHERE.match(link):
            return match[0]
        path, anchor = resolve(link, origin)
        found = find_place(path, origin)
        if found is None:
            raise ValueError(f"{origin} has a link to {link}, and there is no such file.")
        return f"{before}{posixpath.relpath(found, posixpath.dirname(place) or '.')}{anchor}{after}"

    parts = split_code(text)
    return "".join(part if is_code else LINK.sub(move, part) for is_code, part in parts)
