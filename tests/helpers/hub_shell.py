"""Commands that find their models on the served hub."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from conftest import ROOT, Answer

from experiments.mini import tasks


def surroundings(home: Path, endpoint: str) -> dict[str, str]:
    """The environment of a process that knows this hub, and no other way out."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return kept | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


TRAIN, DEV = (f"sst2/{split}-00000-of-00001.parquet" for split in ("train", "validation"))
REPEAT = """
import json, runpy, sys
script = sys.argv[1]
for line in sys.stdin:
    sys.argv, code = [script, *json.loads(line)], 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    print(f"\\n=== {code}", flush=True)
"""


def write_sentences(folder: Path) -> None:
    """48 sentences of the built-in suite, as the hub keeps a task."""
    (folder / "sst2").mkdir(parents=True)
    for file, split, size in ((TRAIN, "train", 32), (DEV, "dev", 16)):
        rows = tasks.rows("sst2", split, size, seed=0)
        columns = {"sentence": rows["sentence"], "label": [int(code) for code in rows["label"]]}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / file)


class Shell:
    """One process that carries out run.py again and again, without the seconds each start takes."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        errors = (folder / "errors").open("w")
        self.errors = (folder / "errors").open()
        self.process = subprocess.Popen(
            [sys.executable, "-c", REPEAT, str(ROOT / "run.py")],
            cwd=folder, env=surroundings(self.home, endpoint), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> Answer:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(arguments), file=self.process.stdin, flush=True)
        out = []
        for line in self.process.stdout:
            if line.startswith("=== "):
                return Answer(int(line.split()[1]), "".join(out), self.errors.read())
            out.append(line)
        raise AssertionError(f"The process ended: {self.errors.read()}")

    def result(self, answer: Answer) -> dict[str, Any]:
        """The result of the run that gave this answer."""
        assert answer.code == 0, answer.err
        (folder,) = re.findall(r"-> (\S+)", answer.out)
        return json.loads((self.folder / folder / "result.json").read_text())

    def cache(self, repository: str) -> Path:
        """Where the files of a repository are kept."""
        return self.home / "hub" / repository.replace("/", "--")
