"""Corpora as people have them (Parquet, JSON lines, a JSON array, CSV, each plain or compressed) as batches of a table.

Three kinds of table can be made: `questions`, `responses` (question, response) and `triples` (question, response,
correction; preference data count as triples whose rejected answer is the response). A line that cannot be read is a
rejected row with its line number; it never ends the job. Nor does a file that breaks off: what can be read of it is.
"""

import csv
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import UsageError
from schemas.tables import TRIPLES
from transforms import storage
from transforms.identity import content_id
from transforms.tables import MANIFEST, Chunk

Kind = Literal["questions", "responses", "triples"]

BATCH_ROWS = 1024
MAX_TEXT_CHARS = 1 << 20
RAW_CHARS = 200
COMPRESSION = (".gz", ".bz2", ".xz", ".zst")
ACCEPTED = {
    "question": ("question", "instruction", "prompt", "input", "query"),
    "response": ("response", "output", "answer", "completion", "rejected"),
    "correction": ("correction", "chosen", "aligned"),
}
FIELDS = {"questions": ("question",), "responses": ("question", "response"), "triples": tuple(ACCEPTED)}
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowInvalid, csv.Error)  # a file from some place on
SURROGATE = re.compile("[\ud800-\udfff]")
LAST_ANSWER = re.compile(r"\n\nAssistant:(?!.*\n\nAssistant:)", re.DOTALL)

REJECTS = pa.schema({"source": pa.string(), "line": pa.int64(), "raw": pa.string(), "error": pa.string()})


@dataclass(frozen=True)
class Line:
    """One record of a file: its number from 1, its values, or why it has none."""

    number: int
    values: dict[str, Any]
    error: str | None = None
    raw: str = ""


def format_of(path: str) -> str:
    """`parquet`, `jsonl`, `json`, `csv` or `tsv`, by the ending; UsageError for any other."""
    name = path.lower()
    for ending in COMPRESSION:
        name = name.removesuffix(ending)
    for ending, found in (
        (".parquet", "parquet"),
        (".jsonl", "jsonl"),
        (".ndjson", "jsonl"),
        (".json", "json"),
        (".csv", "csv"),
        (".tsv", "tsv"),
    ):
        if name.endswith(ending):
            return found
    raise UsageError(f"{path}: what is this? Expected .parquet, .jsonl, .json, .csv or .tsv, plain or compressed")


def find_files(path: str) -> list[str]:
    """The corpus files at a path, a folder or a glob, sorted; UsageError where there is none or one is empty."""
    if storage.is_directory(path):
        files = [file for file in storage.list_files(storage.join(path, "**", "*")) if not storage.is_directory(file)]
        files = [file for file in files if "." in file.rsplit("/", 1)[-1].strip(".") and _is_corpus(file)]
    elif any(mark in path for mark in "*?["):
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
    try:
        return bool(format_of(path))
    except UsageError:
        return False


def read_lines(path: str, limit: int | None = None) -> Iterator[Line]:
    """The first `limit` records of a file, in order; where it breaks off, a last one, `unreadable_from_here`."""
    number = 0
    try:
        for line in islice(_parquet_lines(path) if format_of(path) == "parquet" else _text_lines(path), limit):
            number = line.number
            yield line
    except UNREADABLE as error:
        yield Line(number + 1, {}, "unreadable_from_here", _raw(str(error)))


def _text_lines(path: str) -> Iterator[Line]:
    kind = format_of(path)
    with fsspec.open(path, "rb", compression="infer") as file:
        if kind == "jsonl":
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield _json_line(number, raw)
        elif kind == "json":
            yield from _json_array(path, file.read())
        else:
            text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
            csv.field_size_limit(1 << 30)
            reader = csv.DictReader(text, delimiter="\t" if kind == "tsv" else ",")
            for values in reader:
                error = "wrong_number_of_fields" if None in values or None in values.values() else None
                if any(_has_surrogates(value) for value in values.values()):
                    error = "invalid_utf8"
                yield Line(reader.line_num, {} if error else values, error, _raw(str(values)))


def _json_line(number: int, raw: bytes) -> Line:
    try:
        values = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return Line(number, {}, "invalid_utf8", _raw(raw.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return Line(number, {}, "malformed_json", _raw(raw.decode("utf-8", "replace")))
    return _record(number, values)


def _json_array(path: str, raw: bytes) -> Iterator[Line]:
    try:
        records = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(records, list):
        raise UsageError(f"{path}: expected a JSON array of objects, found {type(records).__name__}")
    for number, values in enumerate(records, 1):
        yield _record(number, values)


def _record(number: int, values: Any) -> Line:
    if not isinstance(values, dict):
        return Line(number, {}, "not_an_object", _raw(str(values)))
    if _has_surrogates(values):
        return Line(number, {}, "invalid_utf8", _raw(str(values)))
    return Line(number, values)


def _has_surrogates(value: Any) -> bool:
    """Whether a text, or one in a list or an object, has halves of characters: no UTF-8 says them."""
    if isinstance(value, str):
        return not value.isascii() and SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogates(name) or _has_surrogates(part) for name, part in value.items())
    return isinstance(value, list) and any(map(_has_surrogates, value))


def _raw(text: str) -> str:
    return text[:RAW_CHARS].encode("utf-8", "replace").decode("utf-8")


def column_names(path: str) -> list[str]:
    """The columns of a file: of a Parquet file from its footer, else those of its first good record."""
    if format_of(path) == "parquet":
        try:
            with fsspec.open(path, "rb") as file:
                return pq.read_schema(file).names
        except (pa.ArrowInvalid, OSError) as error:
            raise UsageError(f"{path}: not a whole Parquet file ({error})") from error
    wrong: Line | None = None
    for line in read_lines(path):
        if line.error is None:
            return list(line.values)
        wrong = wrong or line
    why = f" (line {wrong.number}: {wrong.error}: {wrong.raw})" if wrong else ""
    raise UsageError(f"{path}: holds no record that can be read{why}")


def choose_columns(path: str, kind: Kind, given: dict[str, str | None]) -> dict[str, str]:
    """Which column of the file is the question, the response, the correction: as given, else by its usual names.

    Raises UsageError naming the file, the column that is missing and those that are there.
    """
    names = column_names(path)
    lower = {name.lower(): name for name in reversed(names)}
    has_question = given.get("question") or set(lower) & set(ACCEPTED["question"])
    if kind == "triples" and not has_question and {"chosen", "rejected"} <= set(names):
        return {"question": "chosen", "response": "rejected", "correction": "chosen"}
    chosen = {}
    for field in FIELDS[kind]:
        wanted = given.get(field)
        accepted = (wanted,) if wanted else ACCEPTED[field]
        found = next((name for name in accepted if name in names), None)
        if found is None and not wanted:
            found = next((lower[name] for name in accepted if name in lower), None)
        if found is None:
            raise UsageError(
                f"{path}: no column for the {field}: looked for {', '.join(accepted)} among {', '.join(names)}; "
                f"name it with --{field}-column"
            )
        chosen[field] = found
    return chosen


def split_dialogue(chosen: str, rejected: str) -> tuple[str, str, str] | None:
    """(question, rejected answer, chosen answer) of two dialogues that differ in their last turn, else None.

    Turns are marked `Human:` and `Assistant:`. A question of one turn is given without its mark; a longer dialogue is
    kept as it stands, so that the answer's context is not lost.
    """
    good, bad = LAST_ANSWER.search(chosen), LAST_ANSWER.search(rejected)
    if not good or not bad or chosen[: good.start()].strip() != rejected[: bad.start()].strip():
        return None
    context = chosen[: good.start()].strip()
    question = context.removeprefix("Human:").strip() if context.count("\n\nHuman:") == 0 else context
    return question, rejected[bad.end() :].strip(), chosen[good.end() :].strip()


def normalise(line: Line, kind: Kind, columns: dict[str, str]) -> dict[str, Any] | str:
    """The fields of a record under our names, or the name of what is wrong with it.

    A question or answer that is null, empty, not text or longer than 1 MiB is refused.
    """
    values: dict[str, Any] = {field: line.values.get(column) for field, column in columns.items()}
    if kind == "triples" and columns["question"] == columns["correction"]:
        if not all(isinstance(value, str) for value in values.values()):
            return "not_text"
        parts = split_dialogue(values["correction"], values["response"])
        if parts is None:
            return "no_common_question"
        values = dict(zip(("question", "response", "correction"), parts, strict=True))
    for field, value in values.items():
        if value is None:
            return f"null_{field}"
        if not isinstance(value, str):
            return f"{field}_is_not_text"
        if not value.strip():
            return f"empty_{field}"
        if len(value) > MAX_TEXT_CHARS:
            return f"{field}_too_long"
    return values


def output_schema(path: str, kind: Kind, columns: dict[str, str], limit: int | None = None) -> pa.Schema:
    """The table's schema for one file: id and our fields, then the other columns of its first `limit` rows.

    Columns whose values have no common Arrow type become JSON texts. Raises UsageError naming a column that one of
    our fields would overwrite.
    """
    ours = TRIPLES if kind == "triples" else pa.schema([("id", pa.string())] + [(f, pa.string()) for f in columns])
    theirs = _column_types(path, limit)
    taken = [field for field in columns if field in theirs and field not in columns.values()]
    if kind == "triples" and not pa.types.is_boolean(theirs.get("identity", pa.bool_())):
        taken.append("identity")
    if taken:
        chosen = ", ".join(f"{field} from {column!r}" for field, column in columns.items())
        raise UsageError(
            f"{path}: column {', '.join(map(repr, taken))} would be overwritten ({chosen}); rename or drop it"
        )
    others = {name: type for name, type in theirs.items() if name not in {*ours.names, *columns.values()}}
    return pa.schema([*ours, *others.items()])


def _column_types(path: str, limit: int | None) -> dict[str, pa.DataType]:
    if format_of(path) == "parquet":
        with fsspec.open(path, "rb") as file:
            return {field.name: field.type for field in pq.read_schema(file)}
    types: dict[str, pa.DataType] = {}
    for batch in _batched(read_lines(path, limit)):
        for name in {name for line in batch for name in line.values}:
            types[name] = _common_type(types.get(name, pa.null()), [line.values.get(name) for line in batch])
    return {
        name: pa.string() if pa.types.is_null(type) or _has_empty_object(type) else type
        for name, type in sorted(types.items())
    }


def _has_empty_object(type: pa.DataType) -> bool:
    """Whether a type is or holds an object that never has a field: Parquet cannot store one."""
    inner = [type.field(index).type for index in range(type.num_fields)]
    return (pa.types.is_struct(type) and not inner) or any(map(_has_empty_object, inner))


def _common_type(known: pa.DataType, values: list[Any]) -> pa.DataType:
    try:
        found = pa.array(values).type
        schemas = [pa.schema([("c", known)]), pa.schema([("c", found)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field("c").type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.string()


def _batched(lines: Iterator[Line]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    for line in lines:
        batch.append(line)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _parquet_lines(path: str) -> Iterator[Line]:
    with fsspec.open(path, "rb") as file:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
            for line in _batch_lines(batch):
                number += 1
                yield replace(line, number=number)


def _batch_lines(batch: pa.RecordBatch) -> list[Line]:
    try:
        return [Line(0, values) for values in batch.to_pylist()]
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [Line(0, {}, "invalid_utf8", _raw(str(error)))]
        return [line for row in range(batch.num_rows) for line in _batch_lines(batch.slice(row, 1))]


def read_chunks(
    shard: int, path: str, kind: Kind, columns: dict[str, str], schema: pa.Schema, limit: int | None = None
) -> Iterator[Chunk]:
    """A file as chunks of `row` (a struct of `schema`) or, where it is null, of the columns of REJECTS.

    A second row with a given id is `duplicate_id`. A file that breaks off in the middle gives the rows before the
    break and one rejected row.
    """
    seen: set[str] = set()
    first_row = 0
    marked = pa.schema([pa.field("row", pa.struct(schema)), *REJECTS])
    for batch in _batched(read_lines(path, limit)):
        rows = []
        for line in batch:
            row = _row(line, kind, columns, schema, seen)
            if isinstance(row, str):
                raw = line.raw or _raw(json.dumps(line.values, default=str, ensure_ascii=False))
                rows.append({"source": path, "line": line.number, "raw": raw, "error": row})
            else:
                rows.append({"row": row})
        table = pa.Table.from_pylist(rows, marked)
        yield Chunk(shard, first_row, len(rows), table.combine_chunks().to_batches()[0])
        first_row += len(rows)


def _row(line: Line, kind: Kind, columns: dict[str, str], schema: pa.Schema, seen: set[str]) -> dict[str, Any] | str:
    """The record as a row of `schema`, or the name of what is wrong with it."""
    fields = line.error or normalise(line, kind, columns)
    if isinstance(fields, str):
        return fields
    given = line.values.get("id")
    row_id = str(given) if given is not None else content_id(kind, *fields.values())
    if given is not None and row_id in seen:
        return "duplicate_id"
    if given is not None:
        seen.add(row_id)
    others = {
        name: _fit(line.values[name], schema.field(name).type)
        for name in schema.names
        if line.values.get(name) is not None and name not in columns.values()
    }
    if kind != "triples":
        return others | fields | {"id": row_id}
    question_id = content_id("questions", fields["question"])
    identity = fields["response"] == fields["correction"]
    return {"question_id": question_id} | others | fields | {"id": row_id, "identity": identity}


def _fit(value: Any, type: pa.DataType) -> Any:
    if pa.types.is_string(type) and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value
