"""A process killed, or a disk that fails, at every write, rename and removal of a command.

The rule: after a kill the same command ends as if there had been none; after a failing disk too,
and the failure itself was one line.
"""

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from attack.table import Command, begin_study, call, quietly

TINY = ("data.train=32", "data.dev=32", "train.epochs=2", "train.batch_size=16",
        "record.log_every=1", "record.checkpoint_every=0", "tracker.mode=disabled",
        "compute.device=cpu", "record.snapshots=1")  # fmt: skip
TEXTS = (*TINY, "task=e2e", "data.test=6", "task.decoding.max_tokens=6", "task.decoding.beams=1",
         "task.metrics=[BLEU]")  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
# What differs from one time to the next: times, and how often a run was taken up.
VOLATILE = re.compile(r"seconds|finished|restarts|latency|mib|telemetry|sha256|memory|per_second")
HYDRAS = re.compile("Set the environment variable HYDRA_FULL|Error executing job with overrides")
EXACT, OTHER, STUCK = "exact afterwards", "other afterwards", "does not go on"
ONE_LINE, UNMOVED, UGLY = "one line", "no effect", "several lines or a traceback"


@dataclass(frozen=True)
class Job:
    """Something that writes, in the working folder."""

    name: str
    act: Callable[[], None]
    needs_run: bool = False  # a finished run in `run`
    again: bool = True  # whether the command may be given again once it has come to its end


def main(module: str, *arguments: str) -> Callable[[], None]:
    """A command line."""

    def act() -> None:
        sys.argv = [module, *arguments]
        call(Command(module, module, arguments, ()))

    return act


ADAPTERS = "experiments.adapters.__main__"
JOBS = (
    Job("classification", main("run.py", *TINY, "hydra.run.dir=out")),
    Job("generation", main("run.py", *TEXTS, "hydra.run.dir=out")),
    Job("export", main(ADAPTERS, "export", "run", "out"), needs_run=True, again=False),
    Job("merge", main(ADAPTERS, "merge", "run", "out"), needs_run=True, again=False),
    Job("study", begin_study),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one case."""

    job: str
    how: str  # kill or fail
    event: str
    at_once: str  # of a failing disk
    afterwards: str
    said: str

    @property
    def bad(self) -> bool:
        return self.at_once == UGLY or self.afterwards != EXACT


class Watch:
    """Counts the writes of this process below a folder, and strikes at one of them."""

    def __init__(self, place: Path, number: int | None, how: str, log: Path) -> None:
        self.place, self.number, self.how = str(place), number, how
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | os.PathLike) or not int(flags or 0) & WRITES:
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        full = os.path.abspath(os.fsdecode(path))
        if not full.startswith(self.place):
            return
        os.write(self.log, f"{event} {os.path.relpath(full, self.place)}\n".encode())
        self.count += 1
        if self.count - 1 == self.number:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), full)


def in_child(job: Job, place: Path, number: int | None, how: str) -> tuple[int, str, list[str]]:
    """Exit code, standard error and write events of a job in a process of its own."""
    sys.stdout.flush()
    log, err = place.with_suffix(".events"), place.with_suffix(".err")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            os.chdir(place)
            for stream, path in ((1, os.devnull), (2, str(err))):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
            sys.addaudithook(Watch(place, number, how, log))
            job.act()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        except ValueError as error:  # as run.py and the study's commands print it
            print(error, file=sys.stderr)
        except OSError as error:
            print(error, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), err.read_text(), log.read_text().splitlines()


def attack(
    scratch: Path, chosen: Callable[[list[int], str], list[int]], names: str = ""
) -> Iterator[Outcome]:
    """Every chosen event of every job, killed and failed."""
    torch.set_num_threads(1)
    (scratch / "warm").mkdir()
    with contextlib.chdir(scratch / "warm"):  # what is imported here is there after a fork
        quietly("run.py", (*TEXTS, "hydra.run.dir=out"))
    for job in JOBS:
        if names and job.name not in names.split(","):
            continue
        base = scratch / f"{job.name}-base"
        base.mkdir()
        if job.needs_run:
            with contextlib.chdir(base):
                quietly("run.py", (*TINY, "hydra.run.dir=run"))
        unbroken = scratch / f"{job.name}-unbroken"
        shutil.copytree(base, unbroken)
        code, said, events = in_child(job, unbroken, None, "")
        assert code == 0, said
        wanted = contents(unbroken)
        for how in ("kill", "fail"):
            for number in chosen(list(range(len(events))), job.name):
                place = scratch / "place"
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(base, place)
                yield strike(job, place, number, how, events[number], wanted)


def strike(
    job: Job, place: Path, number: int, how: str, event: str, wanted: dict[str, Any]
) -> Outcome:
    """One case: the blow, and the same command again."""
    code, said, _ = in_child(job, place, number, how)
    lines = [line for line in said.splitlines() if line.strip() and not HYDRAS.match(line)]
    at_once = "" if how == "kill" else UNMOVED
    if how == "fail" and code != 0:
        at_once = ONE_LINE if len(lines) == 1 else UGLY
    elif how == "fail" and "Traceback" in said:
        at_once = UGLY
    again, complaint = 0, ""
    if code != 0 or job.again:
        again, complaint, _ = in_child(job, place, None, "")
    found = contents(place) if again == 0 else {}
    different = [name for name in wanted.keys() | found.keys() if not same(wanted, found, name)]
    afterwards = STUCK if again != 0 else OTHER if different else EXACT
    return Outcome(job.name, how, event, at_once, afterwards, f"{said} {complaint} {different}")


def same(one: dict[str, Any], other: dict[str, Any], name: str) -> bool:
    return name in one and name in other and one[name] == other[name]


def contents(place: Path) -> dict[str, Any]:
    """What lies below a folder, as far as it is to be the same however it came about."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        name = str(path.relative_to(place))
        # Of a writer that may be at work still: such is removed later. A lock that no process holds
        # is none.
        if name.startswith(".out.") or "/.hydra/." in name or path.name == ".lock":
            continue
        if path.suffix == ".safetensors":
            found[name] = {key: tensor.tolist() for key, tensor in load_file(path).items()}
        elif path.suffix == ".parquet":
            found[name] = pd.read_parquet(path).to_json()
        elif path.suffix == ".json":
            found[name] = steady(json.loads(path.read_text()))
        elif path.name == "history.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [steady(line) for line in lines]
        elif path.suffix in (".log", ".yaml"):
            found[name] = None  # there or not is all that counts
        else:
            found[name] = path.read_bytes()
    return found


def steady(node: Any) -> Any:
    """Plain data without what differs from one time to the next."""
    if isinstance(node, dict):
        return {key: steady(item) for key, item in node.items() if not VOLATILE.search(key)}
    return [steady(item) for item in node] if isinstance(node, list) else node


def drawn(seed: int, most: int | None) -> Callable[[list[int], str], list[int]]:
    """A choice of so many events of each job; all if there is no limit."""

    def choose(events: list[int], name: str) -> list[int]:
        if most is None or most >= len(events):
            return events
        return sorted(random.Random(f"{seed}{name}").sample(events, most))

    return choose


def rows(outcomes: list[Outcome]) -> Iterator[str]:
    """Counts by job."""
    for key in dict.fromkeys((outcome.job, outcome.how) for outcome in outcomes):
        own = [outcome for outcome in outcomes if (outcome.job, outcome.how) == key]
        counts = Counter(o.afterwards for o in own) + Counter(o.at_once for o in own if o.at_once)
        told = ", ".join(f"{number} {what}" for what, number in counts.items())
        yield f"{key[0]:16} {key[1]:5} {len(own):4} events: {told}"
