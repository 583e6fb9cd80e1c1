"""Every stored file, damaged in every way, before every command that reads it.

The rule: one line that names the file, or no effect; never a traceback, a hang or other numbers.
"""

import contextlib
import hashlib
import importlib
import io
import os
import re
import resource
import runpy
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from attack.harm import Case, cases

ROOT = Path(__file__).parents[2]
PATIENCE = 20  # seconds of a command
ROOM = 3 * 2**30  # bytes of memory that a command may take beside what is there
NAMED, UNNAMED, SEVERAL = "names the file", "one line without the file", "several lines"
SAME, TRACEBACK, SILENT, HANG = "no effect", "traceback", "other output, silently", "hang"
MEANT = "an edit, taken as meant"
OUTCOMES = (NAMED, SAME, MEANT, UNNAMED, SEVERAL, TRACEBACK, SILENT, HANG)
GOOD = (NAMED, SAME, MEANT)
SMALL = ("data.train=64", "data.dev=32", "train.epochs=3", "train.batch_size=16",
         "record.log_every=1", "record.checkpoint_every=0", "tracker.mode=disabled",
         "compute.device=cpu")  # fmt: skip
# What is never the same twice, and what it takes with it: widths of columns.
TIMES = re.compile(r"[\d.,]+ (s|ms|MiB|tokens/s|KiB)\b|\d{2}:\d{2}:\d{2}[,.\d]*|\s+|[─━═]+")


class Hang(BaseException):
    """A command did not end."""


@dataclass(frozen=True)
class Command:
    """A command line, the files that it reads, and what it leaves behind."""

    name: str
    module: str
    arguments: tuple[str, ...]
    reads: tuple[str, ...]  # names of files
    leaves: tuple[str, ...] = ()  # files or folders that it writes, of which the bytes count


RUN = ("result.json", "adapter.json", "adapter.safetensors", "head.safetensors")
COMMANDS = (
    Command("predict", "experiments.predict", ("run", "--text", "a fine film"), RUN),
    Command("inspect", "experiments.adapters.__main__", ("inspect", "run"), RUN),
    Command("merge", "experiments.adapters.__main__", ("merge", "run", "out"), RUN, ("out",)),
    Command("export", "experiments.adapters.__main__", ("export", "run", "out"), RUN, ("out",)),
    Command("geometry", "analysis.geometry", ("run", "--out", "out"),
            (*RUN, "snapshots/step-0000012.safetensors"), ("out",)),
    Command("load", "analysis.load", (".",), ("result.json",)),
    Command("report", "analysis.report.__main__", ("outputs", "--out", "page.html"),
            ("result.json", "predictions.parquet", "summary.json"), ("page.html",)),
    Command("status", "experiments.study.__main__", ("status", "mine"),
            ("result.json", "study.json")),
    Command("failed", "experiments.study.__main__", ("failed", "mine"),
            ("result.json", "study.json")),
    Command("continue", "run.py", (*SMALL, "hydra.run.dir=unfinished"),
            ("checkpoint.safetensors",),
            ("unfinished/adapter.safetensors", "unfinished/history.jsonl")),
    Command("again", "run.py", (*SMALL, "hydra.run.dir=run"), RUN),
)  # fmt: skip


@dataclass
class Table:
    """What came of every case before every command."""

    outcomes: dict[tuple[str, str], str] = field(default_factory=dict)
    said: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, case: Case, command: Command, outcome: str, said: str) -> None:
        self.outcomes[case.name, command.name] = outcome
        self.said[case.name, command.name] = said

    @property
    def bad(self) -> list[tuple[str, str]]:
        return [key for key, outcome in self.outcomes.items() if outcome not in GOOD]

    def rows(self) -> Iterator[str]:
        """Counts of outcomes by file."""
        files = dict.fromkeys(name.partition(": ")[0] for name, _ in self.outcomes)
        width = max(map(len, files), default=0)
        yield " ".join([" " * width, *(f"{outcome:>26}" for outcome in OUTCOMES)])
        for file in [*files, ""]:
            counts = Counter(
                outcome
                for (name, _), outcome in self.outcomes.items()
                if name.startswith(f"{file}: ") or not file
            )
            numbers = (f"{counts[outcome]:>26,}" for outcome in OUTCOMES)
            yield " ".join([f"{file or 'all':{width}}", *numbers])


def make_victims(folder: Path) -> None:
    """What is to be damaged: a run, another, one that is unfinished, and a study."""
    from experiments.running.checkpoints import Checkpoints

    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        for name, more in (
            ("run", ("record.snapshots=1",)),
            ("other", ("seed=1", "record.snapshots=1")),
        ):
            quietly("run.py", (*SMALL, *more, f"hydra.run.dir={name}"))
        save = Checkpoints.save

        def stop(recorder: Checkpoints, step: int) -> None:
            save(recorder, step)
            if step == 6:
                raise OSError("stopped")

        Checkpoints.save = stop
        try:
            quietly("run.py", (*SMALL, "hydra.run.dir=unfinished"))
            quietly("run.py", (*SMALL, "seed=1", "hydra.run.dir=otherwise"))
        finally:
            Checkpoints.save = save
        section = folder / "conf/study"
        section.mkdir(parents=True)
        # In a process of its own: from a fork of one that has led a study none can be started.
        study = get_context("fork").Process(target=begin_study)
        study.start()
        study.join()
        assert study.exitcode == 0


def begin_study() -> None:
    """A study of two methods, finished."""
    from omegaconf import OmegaConf
    from small_studies import asked

    from experiments.study.command import begin

    section = OmegaConf.merge(
        OmegaConf.load(ROOT / "conf/study/common.yaml"),
        {"methods": {"lora": [], "bitfit": []}, "tasks": {"sst2": []}, "seeds": 2,
         "axes": {"variant.lr": [1e-3]}, "overrides": [*SMALL, "train.epochs=1"]},
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        begin(asked(section), "mine", [])


def quietly(module: str, arguments: tuple[str, ...]) -> None:
    observe(Command(module, module, arguments, ()))


@dataclass(frozen=True)
class Seen:
    """What a command printed and left."""

    code: int
    out: str
    err: str
    left: str
    kind: str = ""  # of what went wrong beside its exit


def observe(command: Command) -> Seen:
    """Carry a command out in this process, in the working folder."""
    out, err, kind, code = io.StringIO(), io.StringIO(), "", 0
    argv, sys.argv = sys.argv, [command.module, *command.arguments]
    os.environ["COLUMNS"] = "1000"
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), little_memory():
            call(command)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            err.write(stop.code + "\n")
    except Hang:
        kind, code = HANG, 1
    except BaseException:  # whatever it is, it would have been a traceback
        kind, code = TRACEBACK, 1
        err.write(traceback.format_exc())
    finally:
        signal.alarm(0)
        sys.argv = argv
    text = out.getvalue() + err.getvalue()
    if "Traceback (most recent call last)" in text:
        kind = TRACEBACK
    return Seen(code, out.getvalue(), err.getvalue(), fingerprint(command), kind)


def call(command: Command) -> None:
    """What the shell would start."""
    if command.module == "run.py":
        runpy.run_path(str(ROOT_OF_CODE / "run.py"), run_name="__main__")
        return
    importlib.import_module(command.module).main()


ROOT_OF_CODE = Path(importlib.import_module("experiments").__file__ or "").parents[1]


def give_up(*_: object) -> None:
    raise Hang


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Limit what may be asked for in the block, so that a wish for all memory ends as an error."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def fingerprint(command: Command) -> str:
    """A hash of what a command wrote."""
    digest = hashlib.sha256()
    for name in command.leaves:
        path = Path(name)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                digest.update(str(file).encode() + file.read_bytes())
    return digest.hexdigest()


def judge(seen: Seen, usual: Seen, case: Case, command: Command) -> str:
    """The outcome of one case."""
    if seen.kind:
        return seen.kind
    file = Path(case.file).name
    lines = [line for line in seen.err.splitlines() if line.strip()]
    if lines and lines[-1].startswith("Set the environment variable HYDRA_FULL_ERROR"):
        lines.pop()
    if lines and lines[0].startswith("Error executing job with overrides"):
        del lines[0]
    new = [line for line in lines if line not in usual.err.splitlines()]
    where = seen.out if case_is_told_in_output(case) else ""
    if seen.code == usual.code and plain(seen) == plain(usual):
        return SAME
    if any(file in line for line in new) or file in where:
        return NAMED if len(new) <= 1 else SEVERAL
    # A file that is not there, or a whole one of another run before who reads no more than it, is
    # no file that is wrong.
    absent = case.what in ("missing", "a link to nothing", "a link to itself")
    meant = case.edit or absent or (case.what == "that of another" and command.name == "load")
    if seen.code != 0 and new and not (absent and len(new) == 1):
        return UNNAMED if len(new) == 1 else SEVERAL
    return MEANT if meant else SILENT


def case_is_told_in_output(case: Case) -> bool:
    """Whether a study's tables name the files of its runs that cannot be read."""
    return case.file.startswith("outputs/")


def plain(seen: Seen) -> tuple[str, str, str]:
    """What counts of what was seen: not how long anything took."""
    return TIMES.sub("TIME", seen.out), TIMES.sub("TIME", seen.err), seen.left


def all_cases(victims: Path, seed: int) -> Iterator[tuple[Case, Command]]:
    """Every damage to every file with every command that reads it."""
    for command in COMMANDS:
        for name in command.reads:
            file = file_of(victims, command, name)
            another = victims / file.replace("run/", "other/").replace("unfin", "otherw").replace(
                "otherwished", "otherwise"
            )
            there = another if another.is_file() and another != victims / file else None
            for case in cases(victims, file, there, f"{command.name}{seed}"):
                yield case, command


def file_of(victims: Path, command: Command, name: str) -> str:
    """The file of this name that a command reads, from the folder of victims."""
    if name == "checkpoint.safetensors":
        return f"unfinished/{name}"
    if command.name in ("report", "status", "failed"):
        paths = sorted((victims / "outputs").rglob(name))
        tests = [path for path in paths if (path.parent / "predictions.parquet").exists()]
        return str((tests or paths)[0].relative_to(victims))
    return f"run/{name}"


def attack(victims: Path, scratch: Path, chosen: Callable[[list], list], seed: int = 0) -> Table:
    """The table of the cases that are chosen."""
    table, usual = Table(), {}
    for command in COMMANDS:
        usual[command.name] = in_copy(victims, scratch, None, command)
    for case, command in chosen(list(all_cases(victims, seed))):
        seen = in_copy(victims, scratch, case, command)
        outcome = judge(seen, usual[command.name], case, command)
        table.add(case, command, outcome, seen.err or seen.out)
    return table


def in_copy(victims: Path, scratch: Path, case: Case | None, command: Command) -> Seen:
    """What a command does in a copy of the victims in which one file is damaged."""
    place = scratch / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(victims, place, symlinks=True)
    if case is not None:
        case.harm(place / case.file)
    with contextlib.chdir(place):
        return observe(command)
