"""Additions to MkDocs: generated pages, links to the repository, equations.

One page for each method, one for each notebook, and the pages at the root of the repository are
made when the site is built, so that none of them can be out of date.
"""

import re

import latex2mathml.converter
import method_pages
import notebook_pages
import python_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from repository import ROOT, find_place, list_links, list_pages, move_links, resolve

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)-light\.(svg|png)\)")
ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made here into the navigation."""
    pages = {
        "Methods": [f"methods/{name}.md" for name in method_pages.list_methods()],
        "Notebooks": [place for place in list_pages().values() if place.startswith("notebooks/")],
        "Decisions": list_decisions(),
    }
    for section in config.nav or []:
        for title, entries in section.items():
            if title in pages:
                section[title] = [*entries, *pages[title]]
    return config


def list_decisions() -> list[str]:
    """The pages in docs/decisions/ but the first, in the order of their names."""
    found = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    return [f"decisions/{path.name}" for path in found if path.stem != "index"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and each file of the repository that a page leads to."""
    texts = {f"docs/{f.src_uri}": f.content_string for f in files if f.src_uri.endswith(".md")}
    for origin, place, content in make_pages():
        texts[origin] = content
        files.append(File.generated(config, place, content=content))
    for name, picture in notebook_pages.list_pictures():
        files.append(File.generated(config, f"notebooks/{name}", content=picture))
    add_linked(files, config, texts)
    return files


def add_linked(files: Files, config: MkDocsConfig, texts: dict[str, str]) -> None:
    """Add each file of the repository that one of these pages leads to."""
    linked = {
        (origin, resolve(link, origin)[0]) for origin in texts for link in list_links(texts[origin])
    }
    for origin, path in sorted(linked):
        place = find_place(path, origin)
        known = place is not None and files.get_file_from_path(place) is not None
        if place is not None and not known and (ROOT / path).is_file():
            content = (ROOT / path).read_bytes()
            files.append(File.generated(config, place, content=content))


def make_pages() -> list[tuple[str, str, str]]:
    """The generated pages: the file each is made of, where it stands, and its text."""
    pages = []
    for origin, place in list_pages().items():
        path = ROOT / origin
        is_notebook = path.suffix == ".ipynb"
        text = notebook_pages.write_page(path) if is_notebook else path.read_text(encoding="utf-8")
        pages.append((origin, place, text))
    for name in method_pages.list_methods():
        pages.append(
            (f"docs/methods/{name}.md", f"methods/{name}.md", method_pages.write_page(name))
        )
    pages.append((f"docs/{python_page.PLACE}", python_page.PLACE, python_page.write_page()))
    return pages


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where files stand in the site, and show pictures by the page's colours."""
    place = page.file.src_uri
    origins = {place: origin for origin, place in list_pages().items()}
    text = move_links(markdown, origins.get(place, f"docs/{place}"), place)
    return IMAGE.sub(r"![\1](\2-light.\3#only-light)![\1](\2-dark.\3#only-dark)", text)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn equations into MathML, which browsers show without a script."""
    html = BLOCK.sub(lambda found: to_mathml(found[1], "block"), html)
    return INLINE.sub(lambda found: to_mathml(found[1], "inline"), html)


def to_mathml(latex: str, display: str) -> str:
    """An equation as MathML."""
    for entity, sign in ENTITIES.items():
        latex = latex.replace(entity, sign)
    return latex2mathml.converter.convert(latex.strip(), display=display)
