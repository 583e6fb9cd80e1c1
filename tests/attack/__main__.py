"""Everything: `python -m attack [corruptions|kills] [--sample N]` with tests/ on the path."""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from attack import table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m attack", description=__doc__)
    parser.add_argument("--sample", type=int, help="only so many corruptions, drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for every outcome, as JSON")
    parser.add_argument("--only", default="", help="commands, by name")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        victims = Path(folder) / "victims"
        table.make_victims(victims)
        found = table.attack(victims, Path(folder), lambda c: drawn(c, given), given.seed)
    print("\n".join(found.rows()))
    print(f"{len(found.outcomes):,} cases in {time.monotonic() - started:,.0f} s")
    if given.out:
        lines = [[*key, outcome, found.said[key][-600:]] for key, outcome in found.outcomes.items()]
        given.out.write_text(json.dumps(lines, indent=0))
    sys.exit(int(bool(found.bad)))


def drawn(cases: list, given: argparse.Namespace) -> list:
    if given.only:
        cases = [case for case in cases if case[1].name in given.only.split(",")]
    if given.sample is None or given.sample >= len(cases):
        return cases
    return random.Random(given.seed).sample(cases, given.sample)


if __name__ == "__main__":
    main()
