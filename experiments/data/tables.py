"""Columns of one split, read from tsv, csv, json, jsonl or parquet exactly as they stand there.

Every error names the file and the row.
"""

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from experiments.disk.files import check_regular, csv_reader
from experiments.stored.shown import near

Record = tuple[int, list[str]]  # line number from 1, fields


# Not frozen: OmegaConf cannot fill in a frozen dataclass that is a field of another.
@dataclass(kw_only=True)
class HubFiles:
    """A data set on the hub: which parquet files hold each split."""

    path: str  # owner/name
    revision: str | None  # branch, tag or commit; null: the default branch
    files: dict[str, str]  # split -> pattern, such as sst2/train-*.parquet
    columns: dict[str, str]  # column in the local file -> its name on the hub, where they differ


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split of a task, and where each source finds it."""

    task: str
    split: str
    columns: list[str]  # those to read
    file: str | None  # relative to data.dir
    header: list[str] | None  # column names of a file without a header line
    hub: HubFiles | None
    skip_malformed: bool  # leave out rows with a wrong number of fields, and count them
    rest: bool = False  # read all other columns too

    def positions(self, where: Path | str, names: Sequence[str]) -> dict[str, int]:
        """The position of every column to read among those there are; raises ValueError for none.

        Of the rest, a second column of one name gets a number behind it.
        """
        found = {column: place(where, names, column) for column in self.columns}
        if not self.rest:
            return found
        known = set(found.values())
        for position, name in enumerate(names):
            if position not in known:
                same = list(names[: position + 1]).count(name)
                found[name if same == 1 else f"{name}.{same}"] = position
        return dict(sorted(found.items(), key=lambda item: item[1]))


@dataclass(frozen=True)
class Table:
    """Columns of one split as they stand in the data, and where each row was found."""

    origin: str
    columns: dict[str, list[Any]]
    lines: list[int]
    sha256: str
    skipped: int = 0
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """The place of a row, for error messages."""
        return f"{self.origin}, {self.unit} {self.lines[row]}"


def read_table(path: Path, part: Part) -> Table:
    """The wanted columns of one file."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path} has the unknown suffix '{path.suffix}'.{near(path.suffix, READERS)} "
            f"Known are: {', '.join(READERS)}."
        )
    check_regular(path)
    data = path.read_bytes()
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise ValueError(f"{path} is empty.")
    table = reader(path, data, part)
    if not len(table):
        raise ValueError(f"{path} holds no rows.")
    return table


def read_tsv(path: Path, data: bytes, part: Part) -> Table:
    """Rows end at LF or CRLF and fields at TAB; quotes and other separators are plain text."""
    lines = enumerate(decode_text(path, data).split("\n"), start=1)
    # A file that was converted twice has two CRs before each LF.
    records = ((number, line.rstrip("\r").split("\t")) for number, line in lines)
    return read_delimited(path, data, part, records)


def read_csv(path: Path, data: bytes, part: Part) -> Table:
    """Comma-separated rows with quoting as in RFC 4180."""
    return read_delimited(path, data, part, csv_records(path, decode_text(path, data)))


def csv_records(path: Path, text: str) -> Iterator[Record]:
    """Rows with the line each one starts at."""
    reader = csv_reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for fields in reader:
            yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {start}: the row that starts here has an unbalanced quote ({error})."
        ) from None


def read_delimited(path: Path, data: bytes, part: Part, records: Iterator[Record]) -> Table:
    """The wanted columns of records that begin with a header, unless `part` brings one."""
    names = part.header or next(records)[1]
    columns = part.positions(path, names)
    rows, skipped = [], 0
    for line, fields in records:
        if len(fields) == len(names):
            rows.append((line, [fields[i] for i in columns.values()]))
        elif part.skip_malformed:
            skipped += 1
        else:
            # As csv takes a CR for the end of a row.
            twice = " The file has lines that end in CR CR LF." if b"\r\r\n" in data else ""
            raise ValueError(
                f"{path}, line {line} has {len(fields)} fields, "
                f"expected {len(names)}: {', '.join(names)}.{twice}"
            )
    cells = {name: [values[i] for _, values in rows] for i, name in enumerate(columns)}
    return Table(str(path), cells, [line for line, _ in rows], digest(data), skipped)


def read_jsonl(path: Path, data: bytes, part: Part) -> Table:
    """One JSON object on each line."""
    lines = enumerate(decode_text(path, data).split("\n"), start=1)
    records = [(number, parse_json(f"{path}, line {number}", line)) for number, line in lines]
    return objects(path, data, part, records)


def read_json(path: Path, data: bytes, part: Part) -> Table:
    """One JSON list of objects."""
    text = decode_text(path, data)
    if is_jsonl(text):
        raise ValueError(f"{path} holds one JSON object on each line; name it .jsonl.")
    rows = parse_json(str(path), text)
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of objects; one object per line is .jsonl.")
    return objects(path, data, part, enumerate(rows, start=1), unit="row")


def is_jsonl(text: str) -> bool:
    """Return whether a text of several lines has a JSON object on the first."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except json.JSONDecodeError:
        return False


def objects(
    path: Path, data: bytes, part: Part, records: Iterable[tuple[int, Any]], unit: str = "line"
) -> Table:
    """The wanted columns of numbered objects."""
    lines, columns = [], {column: [] for column in part.columns}
    records = list(records)
    for number, row in records:
        where = f"{path}, {unit} {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where} must be an object with the columns as keys, got {row!r}.")
        lines.append(number)
        for column, values in columns.items():
            values.append(pick(where, row, column))
    if part.rest:  # in the order of the first row that has them, and empty where a row has none
        names = dict.fromkeys(name for _, row in records for name in row)
        columns = {n: columns.get(n) or [row.get(n) for _, row in records] for n in names}
    return Table(str(path), columns, lines, digest(data), unit=unit)


def read_parquet(path: Path, data: bytes, part: Part) -> Table:
    """One parquet file."""
    return number_rows(str(path), parquet_columns(path, part), digest(data))


def parquet_columns(path: Path, part: Part) -> dict[str, list[Any]]:
    """The wanted columns of a parquet file."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = part.positions(path, file.schema_arrow.names)
            table = file.read(columns=None if part.rest else part.columns)
            if not part.rest:
                return table.to_pydict()
            return {name: table.column(place).to_pylist() for name, place in columns.items()}
    except (pyarrow.ArrowException, OSError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{path} is not a whole parquet file: {first}.") from None


READERS: dict[str, Callable[[Path, bytes, Part], Table]] = {
    ".tsv": read_tsv,
    ".csv": read_csv,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def number_rows(origin: str, columns: dict[str, list[Any]], sha256: str) -> Table:
    """A table whose rows are counted from 1, as they have no lines."""
    length = len(next(iter(columns.values())))
    return Table(origin, columns, list(range(1, length + 1)), sha256, unit="row")


def decode_text(path: Path, data: bytes) -> str:
    """The text of a UTF-8 file, without byte order mark and without blank lines at its end."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line} is not UTF-8: byte 0x{data[error.start]:02x}."
        ) from None


def check_unicode(where: str, text: str) -> None:
    """Raise ValueError for a text with half a character in it, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} is not Unicode: position {error.start} holds {text[error.start]!r}, which an "
            "escape of JSON's or a terminal of another encoding than UTF-8 may have left there."
        ) from None


def parse_json(where: str, text: str) -> Any:
    """The value of a JSON text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}.") from None


def place(where: Path | str, names: Iterable[str], column: str) -> int:
    """The position of a column among `names`."""
    names = list(names)
    if names.count(column) == 1:
        return names.index(column)
    fault = "has no column" if column not in names else "has more than one column"
    raise ValueError(
        f"{where} {fault} '{column}'.{near(column, names)} It has: {list_names(names)}."
    )


def pick(where: str, row: dict[str, Any], column: str) -> Any:
    """The value of a column in a row given as a dict."""
    place(where, row, column)
    return row[column]


def list_names(names: list[str]) -> str:
    """Names in a row, cut short if a header line is really a sentence."""
    text = ", ".join(names)
    return text if len(text) <= 200 else text[:200] + " ..."


def digest(data: bytes) -> str:
    """The SHA-256 of the bytes, in hex."""
    return hashlib.sha256(data).hexdigest()
