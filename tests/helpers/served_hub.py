"""A hub on this machine: as much of its file protocol as a download asks for, and its faults."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Headers = Mapping[str, str]
NONE: Headers = {}
WEIGHTY = (".safetensors", ".parquet")  # the files that a fault of single files befalls


class Served(ThreadingHTTPServer):
    """Repositories by "models/OWNER/NAME" or "datasets/OWNER/NAME", each a folder and one commit.

    `faults` says what goes wrong, by repository, or under "" in all that is asked for:

    - a status: 500 at "api" (what the repository is), "tree" (its files), "head" or "get" (a file)
    - "cut": a file ends before its length is reached
    - "short": a file is served whole, and is shorter than was announced
    - "gone": a file is listed and not there
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.faults: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def served(repositories: dict[str, Path]) -> Iterator[Served]:
    """A hub that answers until the block ends."""
    with Served(repositories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def commit(repository: str) -> str:
    """The one commit of a repository."""
    return hashlib.sha1(repository.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Served
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(f"{self.command} {path}")
        if self.server.faults.get("") == "all":
            return self.answer(500, b"")
        if not path:
            return self.answer(200, b"")
        parts = path.removeprefix("api/").split("/")
        if parts[0] not in ("models", "datasets"):  # a model's files lie right below the root
            parts.insert(0, "models")
        repository, rest = "/".join(parts[:3]), parts[3:]
        if repository not in self.server.repositories:
            return self.missing("RepoNotFound")
        if rest and rest[1] not in ("main", commit(repository)):
            return self.missing("RevisionNotFound")
        if path.startswith("api/"):
            return self.describe(repository, tree=rest[:1] == ["tree"])
        self.file(repository, "/".join(rest[2:]))

    def describe(self, repository: str, tree: bool) -> None:
        fault = self.server.faults.get(repository)
        if fault == ("tree" if tree else "api"):
            return self.answer(500, b"")
        folder = self.server.repositories[repository]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        listed: Any = [
            {"type": "file", "path": name, "size": path.stat().st_size, "oid": tag(path)}
            for name, path in zip(names, files, strict=True)
        ]
        if not tree:
            siblings = [{"rfilename": name} for name in names]
            owner = repository.partition("/")[2]
            listed = {"id": owner, "sha": commit(repository), "siblings": siblings}
        self.answer(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})

    def file(self, repository: str, name: str) -> None:
        path = self.server.repositories[repository] / name
        fault = self.server.faults.get(repository) if name.endswith(WEIGHTY) else None
        known = {"X-Repo-Commit": commit(repository)}
        if not path.is_file() or fault == "gone":
            return self.missing("EntryNotFound", known)
        if fault == self.command.lower():
            return self.answer(500, b"")
        content = path.read_bytes()
        known["ETag"] = f'"{tag(path)}"'
        if fault == "short" and self.command == "GET":
            content = content[: len(content) // 2]
        self.answer(200, content, known, cut=fault == "cut")

    def missing(self, code: str, headers: Headers = NONE) -> None:
        self.answer(404, b"", {"X-Error-Code": code, **headers})

    def answer(self, status: int, body: bytes, headers: Headers = NONE, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: Any) -> None:
        pass


def tag(path: Path) -> str:
    """What names the content of a file."""
    return hashlib.sha1(path.read_bytes()).hexdigest()
