"""`python -m analysis.index results`: all published studies below a folder as one page."""

import argparse
from pathlib import Path

from analysis.index import NAME, make_page
from experiments.stored.shown import fail


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.index",
        description="Write one page on all published studies below a folder.",
    )
    parser.add_argument(
        "folder", nargs="?", default="results", type=Path, help="folder of the studies (results)"
    )
    parser.add_argument("--out", type=Path, help=f"file of the page (FOLDER/{NAME})")
    arguments = parser.parse_args()
    out: Path = arguments.out or arguments.folder / NAME
    try:
        out.write_text(make_page(arguments.folder, out.parent), encoding="utf-8")
    except (ValueError, OSError) as error:
        fail(error)
    print(out)


if __name__ == "__main__":
    main()
