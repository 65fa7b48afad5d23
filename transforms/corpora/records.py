"""Records of corpus files: Parquet, JSON lines, a JSON array, CSV, each plain or compressed.

A record that cannot be read keeps its number and says why. A file that breaks off gives what stands before the break.
"""

import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import infer_compression

from schemas.errors import StageError, UsageError
from schemas.urls import without_query
from transforms.tables import storage
from transforms.tables.table import MANIFEST

BATCH_ROWS = 1024
BATCH_BYTES = 16 << 20
RAW_CHARS = 200
COMPRESSION = (".gz", ".bz2", ".xz", ".zst")
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Line:
    """One record of a file: its number from 1, its values, or why it has none."""

    number: int
    values: dict[str, Any]
    error: str | None = None
    raw: str = ""
    bytes: int = 0


class NoRecord(UsageError):
    """A file of which not one record can be read."""


class EmptyFile(NoRecord):
    """A file without records, of which nothing is lost where it is left out."""


# What a file raises from some record on; but see `_check_content`.
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowInvalid, csv.Error, NoRecord)


def format_of(path: str) -> str:
    """Return `parquet`, `jsonl`, `json`, `csv` or `tsv`, by the ending; raise UsageError for any other."""
    name = without_query(path).lower()
    for ending in COMPRESSION:
        name = name.removesuffix(ending)
    for ending, kind in (
        (".parquet", "parquet"),
        (".jsonl", "jsonl"),
        (".ndjson", "jsonl"),
        (".json", "json"),
        (".csv", "csv"),
        (".tsv", "tsv"),
    ):
        if name.endswith(ending):
            return kind
    raise UsageError(f"{path}: what is this? Expected .parquet, .jsonl, .json, .csv or .tsv, plain or compressed")


def find_files(path: str) -> list[str]:
    """Return the corpus files at a path, a folder or a glob, sorted.

    Raises UsageError where there is none.
    """
    if storage.is_directory(path):
        files = storage.files_below(path, _is_corpus)
    elif storage.is_pattern(path):
        files = storage.list_files(path)
    else:
        files = [path] if storage.exists(path) else []
    if not files:
        raise UsageError(f"{path}: no such file, or nothing in it that can be read")
    if storage.exists(storage.join(path, MANIFEST)):
        raise UsageError(
            f"{path}: is a table already (it has a {MANIFEST}); a corpus is files as other programs write them"
        )
    return files


def _is_corpus(path: str) -> bool:
    """Return whether a file has an ending that is read, and a name before it."""
    try:
        return "." in path.rsplit("/", 1)[-1].strip(".") and bool(format_of(path))
    except UsageError:
        return False


def read_lines(path: str, limit: int | None = None) -> Iterator[Line]:
    """Yield the first `limit` records of a file and, where it breaks off, `unreadable_from_here`."""
    for lines, _ in read_batches(path, limit):
        yield from lines


def read_batches(
    path: str, limit: int | None = None, columns: Collection[str] | None = None
) -> Iterator[tuple[list[Line], pa.RecordBatch | None]]:
    """Yield the records of `read_lines` in batches of at most BATCH_ROWS and about BATCH_BYTES.

    Those of a Parquet file come with their Arrow batch, and with the values of `columns` only.
    """
    if format_of(path) == "parquet":
        yield from _parquet_batches(path, limit, columns)
    else:
        for lines in _batched(_until_it_breaks(path, limit)):
            yield lines, None


def _until_it_breaks(path: str, limit: int | None) -> Iterator[Line]:
    number = 0
    try:
        for line in islice(_text_lines(path), limit):
            number = line.number
            yield line
    except UNREADABLE as error:
        yield _break(path, number, error)


def _break(path: str, number: int, error: Exception) -> Line:
    """Return the last record of a file that breaks off.

    Raises where its content is not at fault.
    """
    _check_content(path, error)
    return Line(number + 1, {}, "unreadable_from_here", excerpt(str(error)))


def _check_content(path: str, error: Exception) -> None:
    """Raise where the content is not at fault.

    At fault is the path (UsageError), or a disk or a network (StageError). What decompresses and parses raises a bare
    OSError without a number.
    """
    if isinstance(error, FileNotFoundError | PermissionError):
        raise UsageError(f"{path}: cannot be read ({error}); make it readable, or leave it out") from error
    if isinstance(error, OSError) and (error.errno is not None or type(error) not in (OSError, gzip.BadGzipFile)):
        raise StageError(f"{path}: cannot be read ({error}); the same command goes on from what is done") from error


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    bare = without_query(path)
    is_zstd = bare.lower().endswith(".zst")
    with fsspec.open(path, "rb", compression=None if is_zstd else infer_compression(bare)) as file:
        # Arrow's reads on where one frame ends and the next begins.
        yield io.BufferedReader(pa.CompressedInputStream(file, "zstd")) if is_zstd else file


def _text_lines(path: str) -> Iterator[Line]:
    kind = format_of(path)
    with _open(path) as file:
        if kind == "jsonl":
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield _json_line(number, raw)
        elif kind == "json":
            yield from _json_array(file.read())
        else:
            text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
            csv.field_size_limit(1 << 30)
            reader = csv.DictReader(text, delimiter="\t" if kind == "tsv" else ",")
            for values in reader:
                error = "wrong_number_of_fields" if None in values or None in values.values() else None
                if any(_has_surrogates(value) for value in values.values()):
                    error = "invalid_utf8"
                shown = str(values)
                yield Line(reader.line_num, {} if error else values, error, excerpt(shown), len(shown))


def _json_line(number: int, raw: bytes) -> Line:
    try:
        values = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return Line(number, {}, "invalid_utf8", excerpt(raw[: 4 * RAW_CHARS].decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return Line(number, {}, "malformed_json", excerpt(raw[: 4 * RAW_CHARS].decode("utf-8", "replace")))
    return _record(number, values, len(raw))


def _json_array(raw: bytes) -> Iterator[Line]:
    try:
        records = json.loads(raw.decode("utf-8")) if raw.strip() else []
    except UnicodeDecodeError as error:
        raise NoRecord(f"not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise NoRecord(f"not JSON: {error}") from error
    if not isinstance(records, list):
        raise NoRecord(f"expected a JSON array of objects, not {type(records).__name__}")
    for number, values in enumerate(records, 1):
        yield _record(number, values, len(raw) // len(records))


def _record(number: int, values: Any, bytes: int) -> Line:
    if not isinstance(values, dict):
        return Line(number, {}, "not_an_object", excerpt(str(values)))
    if _has_surrogates(values):
        return Line(number, {}, "invalid_utf8", excerpt(str(values)))
    return Line(number, values, bytes=bytes)


def _has_surrogates(value: Any) -> bool:
    """Return whether a text has halves of characters, which UTF-8 cannot say.

    A list or an object has them where a text in it has.
    """
    if isinstance(value, str):
        return not value.isascii() and SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogates(name) or _has_surrogates(part) for name, part in value.items())
    return isinstance(value, list) and any(map(_has_surrogates, value))


def excerpt(text: str) -> str:
    """Return the start of a text, as a reject shows it."""
    return text[:RAW_CHARS].encode("utf-8", "replace").decode("utf-8")


def column_names(path: str) -> list[str]:
    """Return the columns of a file.

    A Parquet file has them in its footer, any other in its first good record. Raises NoRecord where no record is good,
    EmptyFile where there is not even a broken one.
    """
    if format_of(path) == "parquet":
        schema, rows = read_footer(path)
        if twice := {name for name in schema.names if schema.names.count(name) > 1}:
            raise UsageError(f"{path}: has several columns called {', '.join(sorted(twice))}; rename or drop them")
        if not rows:
            raise EmptyFile(f"{path}: holds no record")
        return schema.names
    wrong: Line | None = None
    for line in read_lines(path):
        if line.error is None:
            return list(line.values)
        wrong = wrong or line
    if wrong is None:
        raise EmptyFile(f"{path}: holds no record")
    raise NoRecord(f"{path}: holds no record that can be read (line {wrong.number}: {wrong.error}: {wrong.raw})")


def read_footer(path: str) -> tuple[pa.Schema, int]:
    """Return the columns and the number of rows that a Parquet file declares.

    Raises NoRecord where it is broken.
    """
    try:
        with fsspec.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            return parquet.schema_arrow.remove_metadata(), parquet.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        _check_content(path, error)
        raise NoRecord(f"{path}: not a whole Parquet file ({error})") from error


def _batched(lines: Iterator[Line]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += line.bytes
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parquet_batches(
    path: str, limit: int | None, columns: Collection[str] | None
) -> Iterator[tuple[list[Line], pa.RecordBatch | None]]:
    number = 0
    try:
        with fsspec.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                size = parquet.metadata.row_group(group)
                rows = max(1, min(BATCH_ROWS, BATCH_BYTES * size.num_rows // max(1, size.total_byte_size)))
                for batch in parquet.iter_batches(rows, row_groups=[group]):
                    batch = batch.slice(0, None if limit is None else limit - number)
                    if not batch.num_rows:
                        return
                    yield _batch_lines(number + 1, batch, columns), batch
                    number += batch.num_rows
    except UNREADABLE as error:
        yield [_break(path, number, error)], None


def _batch_lines(first: int, batch: pa.RecordBatch, columns: Collection[str] | None) -> list[Line]:
    """Return the rows of a batch as records of `columns`.

    One whose bytes are no UTF-8 has an error instead.
    """
    errors = _invalid_rows(batch)
    is_good = pa.array([row not in errors for row in range(batch.num_rows)], pa.bool_())
    wanted = [name for name in batch.schema.names if columns is None or name in columns]
    values = iter(batch.select(wanted).filter(is_good).to_pylist())
    return [
        Line(first + row, {}, "invalid_utf8", excerpt(errors[row]))
        if row in errors
        else Line(first + row, next(values))
        for row in range(batch.num_rows)
    ]


def _invalid_rows(batch: pa.RecordBatch) -> dict[int, str]:
    """Return what is wrong with rows whose bytes are no UTF-8, by row number."""
    try:
        batch.validate(full=True)
        return {}
    except pa.ArrowInvalid as error:
        if batch.num_rows == 1:
            return {0: str(error)}
    errors = {}
    for row in range(batch.num_rows):
        try:
            batch.take([row]).validate(full=True)  # not a slice: of that, what lies beside it is checked as well
        except pa.ArrowInvalid as error:
            errors[row] = str(error)
    return errors
