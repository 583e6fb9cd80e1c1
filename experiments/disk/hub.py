"""The Hugging Face hub: the one module that reaches for it, so that the way out fails one way."""

import logging
import re
import threading
from collections import Counter
from pathlib import Path

import httpx
import huggingface_hub
from huggingface_hub import constants, errors

logging.getLogger("httpx").setLevel(logging.WARNING)  # below that, it shows every request

PATIENCE = 4.0  # seconds until a hub that does not answer counts as out of reach

# What a model cannot do without; of the files in one line, any will do.
OF_A_MODEL = [
    ["config.json"],
    ["*.safetensors"],
    ["tokenizer.json", "vocab.json", "vocab.txt"],
]
PART = re.compile(r"(.+)-\d+-of-(\d+)\b.*")  # train-00000-of-00002.parquet

WAYS_ON = {
    "dataset": "data=local data.dir=FOLDER reads files you have, data=mini the built-in suite",
    "model": "model.path=FOLDER reads files you have",
}


def snapshot(repo: str, kind: str, patterns: list[str], revision: str | None) -> Path:
    """The folder with those files of a "model" or "dataset" that match the patterns.

    A cached copy is taken as it is, without asking the hub for a newer one.
    """
    if constants.HF_HUB_CACHE.startswith("~"):
        raise ValueError(
            f"What the hub sends is kept in the user's cache, and this user has no home directory: "
            f"HF_HOME may name a folder for {kind} {repo}; {WAYS_ON[kind]}."
        )
    folder = find_cached(repo, kind, patterns, revision)
    if folder is not None:
        return folder
    wanted = f"{kind} {repo} ({', '.join(patterns)})"
    if constants.HF_HUB_OFFLINE:
        raise unreachable(wanted, kind, "HF_HUB_OFFLINE is set")
    fault = probe(constants.ENDPOINT)
    if fault:
        raise unreachable(wanted, kind, f"{constants.ENDPOINT} is out of reach: {fault}")
    folder = download(repo, kind, patterns, revision)
    lacking = missing(folder, kind, patterns)
    if lacking:
        raise ValueError(f"The hub has {kind} '{repo}', but in it no {lacking}; {WAYS_ON[kind]}.")
    return folder


def find_cached(repo: str, kind: str, patterns: list[str], revision: str | None) -> Path | None:
    """The folder of an earlier download that holds what is wanted."""
    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            repo_type=kind,
            revision=revision,
            allow_patterns=patterns,
            local_files_only=True,
        )
    except errors.HFValidationError as error:
        raise ValueError(f"'{repo}' is no name of a {kind} on the hub: {error}") from None
    except errors.LocalEntryNotFoundError:
        return None
    return None if missing(Path(folder), kind, patterns) else Path(folder)


def missing(folder: Path, kind: str, patterns: list[str]) -> str:
    """The first of what is needed that the folder lacks, or an empty string.

    Other programs fetch single files into the same cache, so a folder may hold only some.
    """
    for names in OF_A_MODEL if kind == "model" else [[pattern] for pattern in patterns]:
        found = [path for name in names for path in folder.glob(name)]
        if not found or not all_parts(found):
            return names[0] if not found else f"complete {names[0]}"
    return ""


def all_parts(paths: list[Path]) -> bool:
    """Return whether of every file in numbered parts all parts are there."""
    parts = [match.groups() for path in paths if (match := PART.fullmatch(path.name))]
    return all(count == int(total) for (_, total), count in Counter(parts).items())


def download(repo: str, kind: str, patterns: list[str], revision: str | None) -> Path:
    """Fetch the files from the hub into the cache."""
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo, repo_type=kind, revision=revision, allow_patterns=patterns
            )
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision '{revision}'" if revision else ""
        raise ValueError(
            f"The hub has no public {kind} '{repo}'{at}; {WAYS_ON[kind]} ({type(error).__name__})."
        ) from None
    except (httpx.HTTPError, OSError) as error:  # also files shorter than announced, a full disk
        raise unreachable(f"{kind} {repo}", kind, reason(error)) from None


def reason(error: BaseException) -> str:
    """Say in one line why a download failed."""
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        # The library wraps what the hub said into advice to look at the connection.
        return reason(error.__cause__)
    if isinstance(error, errors.HfHubHTTPError):
        return f"{error.response.url} is answered with status {error.response.status_code}"
    return first_line(error)


def probe(endpoint: str) -> str:
    """Return why the hub cannot be reached, or an empty string, within PATIENCE seconds.

    In a thread, because no timeout of the HTTP client covers name resolution.
    """
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask(endpoint)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answers[0] if answers else f"no answer within {PATIENCE:g} seconds"


def ask(endpoint: str) -> str:
    """Send one request; return what goes wrong with it, or an empty string."""
    try:
        # The hub library's own session, for its proxies and certificates.
        status = huggingface_hub.get_session().head(endpoint, timeout=3.0).status_code
    except (httpx.HTTPError, OSError) as error:
        return first_line(error)
    return f"it answers with status {status}" if status >= 500 or status == 407 else ""


def first_line(error: BaseException) -> str:
    """The kind and the first line of an error."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__} {lines[0]}".strip().rstrip(".")


def unreachable(wanted: str, kind: str, reason: str) -> ConnectionError:
    """The one error for everything that cannot be had, with the ways on."""
    return ConnectionError(f"No cached copy of {wanted}, and {reason}; {WAYS_ON[kind]}.")
