"""Show, resume or publish a study: `python -m experiments.study COMMAND NAME`."""

import argparse
import subprocess
import sys

from rich.console import Console
from rich.table import Column, Table

from experiments.stored.places import mask_path
from experiments.stored.shown import fail, plain, visible
from experiments.study import summary
from experiments.study.command import report_command, restore_plan
from experiments.study.plan import Plan
from experiments.study.progress import STATUSES, count

LOST = ("failed", "diverged")


def main() -> None:
    """Carry out one command on a study."""
    options = arguments()
    try:
        plan, options.backend = restore_plan(options.study, options.trust)
        code = COMMANDS[options.command](plan, options)
    except (ValueError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        print("Interrupted; 'resume' continues the study.", file=sys.stderr)
        code = 130
    sys.exit(code)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="what to do with the study")
    parser.add_argument("study", help="name of the study, as in study=NAME")
    parser.add_argument(
        "--retry", action="store_true", help="resume: try failed and diverged runs again"
    )
    parser.add_argument(
        "--trust", action="store_true",
        help="let the study name settings and classes outside the project; only for your own",
    )  # fmt: skip
    return parser.parse_args()


def status(plan: Plan, options: argparse.Namespace) -> int:
    """Print how many runs have each status, and the summary so far."""
    plan.refresh()
    counts = count(plan)
    known = "  ".join(f"{counts[name]} {name}" for name in STATUSES if counts[name])
    print(f"{visible(plan.name)}: {known}; {plan.expected()} expected")
    summary.show(summary.Summary(plan))
    return 0


def resume(plan: Plan, options: argparse.Namespace) -> int:
    """Continue a study where it stopped."""
    if options.retry:
        for cell in plan.refresh():
            if plan.outcome(cell).status in LOST:
                cell.forget()
        plan.outcomes.clear()
    from experiments.study.conduct import conduct

    done = conduct(plan, options.backend)
    print(f"As one page: {report_command(visible(plan.name))}")
    return 0 if done else 1


def list_failed(plan: Plan, options: argparse.Namespace) -> int:
    """List the runs that failed or diverged, with the reason; return 1 if there is one."""
    lost = [cell for cell in plan.refresh() if plan.outcome(cell).status in LOST]
    folding = (Column(title, overflow="fold") for title in ("reason", "folder"))
    table = Table("run", "status", *folding)
    for cell in lost:
        known = plan.outcome(cell)
        table.add_row(*map(plain, (cell.title, known.status, known.reason or "", cell.folder)))
    if lost:
        Console().print(table)
    return int(bool(lost))


def sync(plan: Plan, options: argparse.Namespace) -> int:
    """Send the offline records of the runs to wandb."""
    folders = [
        str(path)
        for cell in plan.refresh()
        for path in sorted(cell.folder.glob("wandb/offline-run-*"))
    ]
    if not folders:
        raise ValueError(f"No run of '{plan.name}' was tracked offline.")
    return subprocess.run([sys.executable, "-m", "wandb", "sync", *folders]).returncode


def publish(plan: Plan, options: argparse.Namespace) -> int:
    """Copy results and predictions, without texts, weights and absolute paths, to results/STUDY."""
    from experiments.study import publish

    place, paths = publish.publish(plan)
    print(f"Published in {place}.")
    for path in sorted(paths):
        print(f"  {visible(path)} is written there as {visible(mask_path(path))}")
    return 0


COMMANDS = {
    "status": status,
    "resume": resume,
    "failed": list_failed,
    "sync": sync,
    "publish": publish,
}

if __name__ == "__main__":
    main()
