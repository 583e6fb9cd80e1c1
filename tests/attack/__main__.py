"""Everything: `python -m attack [corruptions|kills] [--sample N]` with tests/ on the path."""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from attack import kills, table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m attack", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["corruptions", "kills"], help="or both")
    parser.add_argument("--sample", type=int, help="so many corruptions, and events of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for every outcome, as JSON")
    parser.add_argument("--only", default="", help="commands or jobs, by name")
    given = parser.parse_args()
    lines: list[list[str]] = []
    bad = 0
    for what, act in (("corruptions", corrupt), ("kills", kill)):
        if given.what in (None, what):
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                cases, wrong = act(Path(folder), given)
            print(f"{len(cases):,} cases in {time.monotonic() - started:,.0f} s", flush=True)
            lines, bad = lines + cases, bad + wrong
    if given.out:
        given.out.write_text(json.dumps(lines, indent=0))
    sys.exit(int(bad > 0))


def corrupt(folder: Path, given: argparse.Namespace) -> tuple[list[list[str]], int]:
    """Damaged files before every command: all outcomes, and the number of bad ones."""
    victims = folder / "victims"
    table.make_victims(victims)
    found = table.attack(victims, folder, lambda cases: drawn(cases, given), given.seed)
    print("\n".join(found.rows()))
    for case, command in found.bad:
        print(f"{command}: {case}: {found.outcomes[case, command]}")
    lines = [[*key, outcome, found.said[key][-600:]] for key, outcome in found.outcomes.items()]
    return lines, len(found.bad)


def kill(folder: Path, given: argparse.Namespace) -> tuple[list[list[str]], int]:
    """Kills and failing disks: all outcomes, and the number of bad ones."""
    choice = kills.drawn(given.seed, given.sample)
    found = list(kills.attack(folder, choice, given.only))
    print("\n".join(kills.rows(found)))
    for one in found:
        if one.bad:
            print(f"{one.job}: {one.how} {one.event}: {one.at_once} {one.afterwards}")
    lines = [[f"{o.how} {o.event}", o.job, o.afterwards, o.said[-600:]] for o in found]
    return lines, sum(one.bad for one in found)


def drawn(cases: list, given: argparse.Namespace) -> list:
    if given.only:
        cases = [case for case in cases if case[1].name in given.only.split(",")]
    if given.sample is None or given.sample >= len(cases):
        return cases
    return random.Random(given.seed).sample(cases, given.sample)


if __name__ == "__main__":
    main()
