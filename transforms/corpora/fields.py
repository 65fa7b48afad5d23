"""Corpora as people have them (files of transforms.corpora.records) as batches of a table.

Three kinds of table can be made: `questions`, `responses` (question, response; also from chats and from a batch API's
results) and `triples` (question, response, correction; preference data count as triples whose rejected answer is the
response). A record that cannot be read or used is a rejected row with its line number; it never ends the job.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from schemas.errors import UsageError
from schemas.tables import TRIPLES
from schemas.urls import redact_urls
from transforms.corpora.batch_results import Requests, open_requests, read_answer
from transforms.corpora.column_types import ColumnTypes, has_empty_object, types_of_schema, types_of_values
from transforms.corpora.conversations import Unusable, split_dialogue, split_messages
from transforms.corpora.records import Line, column_names, excerpt, format_of, read_batches, read_footer
from transforms.tables.chunks import Chunk
from transforms.tables.columns import is_text
from transforms.tables.identity import content_id
from transforms.tables.shard_file import conform

Kind = Literal["questions", "responses", "triples"]

MAX_TEXT_CHARS = 1 << 20
ACCEPTED = {
    "question": ("question", "instruction", "prompt", "input", "query"),
    "response": ("response", "output", "answer", "completion", "rejected"),
    "correction": ("correction", "chosen", "aligned"),
}
FIELDS = {"questions": ("question",), "responses": ("question", "response"), "triples": tuple(ACCEPTED)}
DIALOGUES = {"question": "chosen", "response": "rejected", "correction": "chosen"}  # two texts of several turns each
CHATS = ("messages", "conversation", "conversations")
BATCH_RESULTS = {"id": "custom_id", "question": "custom_id", "response": "response"}  # a question by its request's id

REJECTS = pa.schema({"source": pa.string(), "line": pa.int64(), "raw": pa.string(), "error": pa.string()})


@dataclass(frozen=True)
class Look:
    """A file before it is read: which of its columns are ours, and what all its columns hold."""

    path: str
    columns: dict[str, str]
    types: ColumnTypes

    def to_json(self) -> dict[str, Any]:
        schema = pa.schema(list(self.types.types.items())).serialize().to_pybytes().hex()
        return {"path": self.path, "columns": self.columns, "schema": schema, "wide": sorted(self.types.wide)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Look":
        schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(values["schema"])))
        types = dict(zip(schema.names, schema.types, strict=True))
        return cls(values["path"], values["columns"], ColumnTypes(types, frozenset(map(tuple, values["wide"]))))


def choose_columns(path: str, kind: Kind, flags: dict[str, str | None]) -> dict[str, str]:
    """Return the file's column for each of our fields; the first of these that applies decides.

    1. A flag that speaks of whole records, `batch_input` or `messages`: the user knows the file.
    2. Preference dialogues, where triples have no question. They come before single fields because their columns are
       usual names of a response and a correction too, and the question would be missing.
    3. A column for each field: the one that a flag names, else one of its usual names.
    4. A chat, where a response's field is missing and no flag is given. It comes after single fields because a file
       with a question and a response may keep the chat beside them.

    Raises UsageError naming the file, the column that is missing and those that are there; NoRecord where it has none.
    """
    names = column_names(path)
    if flags.get("batch_input"):
        if missing := set(BATCH_RESULTS.values()) - set(names):
            raise UsageError(
                f"{path}: no results of a batch API: no column {', '.join(sorted(missing))} among {', '.join(names)}"
            )
        return BATCH_RESULTS
    if chat := flags.get("messages"):
        if chat not in names:
            raise UsageError(f"{path}: no column {chat!r} (--messages-column) among {', '.join(names)}")
        return _chat_columns(chat)
    has_question = flags.get("question") or _usual_column(names, "question")
    if kind == "triples" and not has_question and set(DIALOGUES.values()) <= set(names):
        return DIALOGUES
    columns = {field: _field_column(names, field, flags.get(field)) for field in FIELDS[kind]}
    lacking = next((field for field, column in columns.items() if column is None), None)
    if lacking and kind == "responses" and not any(flags.values()):
        if chat := next((name for name in CHATS if name in names), None):
            return _chat_columns(chat)
        if set(BATCH_RESULTS.values()) <= set(names):
            raise UsageError(f"{path}: results of a batch API; name the file of its requests with --batch-input")
    if lacking:
        raise UsageError(
            f"{path}: no column for the {lacking}: looked for {flags.get(lacking) or ', '.join(ACCEPTED[lacking])} "
            f"among {', '.join(names)}; name it with --{lacking}-column"
        )
    return {field: column for field, column in columns.items() if column is not None}


def _chat_columns(chat: str) -> dict[str, str]:
    """Return the columns of a chat: one is both question and response."""
    return {"question": chat, "response": chat}


def _field_column(names: list[str], field: str, flag: str | None) -> str | None:
    """Return the column that a flag names exactly, else one of the field's usual names."""
    if flag:
        return flag if flag in names else None
    return _usual_column(names, field)


def _usual_column(names: list[str], field: str) -> str | None:
    """Return the first of a field's usual names that a column has.

    One as it is written comes before one in another case. Any case is a last resort: of `Question` and `prompt`, it is
    `prompt` that bears a usual name exactly.
    """
    by_lower = {name.lower(): name for name in reversed(names)}  # of `Prompt` and `PROMPT`, the one on the left
    for columns in ({name: name for name in names}, by_lower):
        for name in ACCEPTED[field]:
            if name in columns:
                return columns[name]
    return None


def look_at(path: str, kind: Kind, flags: dict[str, str | None], limit: int | None = None) -> Look:
    """Return the columns of a file, and the types of its first `limit` rows.

    Raises UsageError naming a column that is missing, or that one of our fields would overwrite; NoRecord where nothing
    can be read.
    """
    columns = choose_columns(path, kind, flags)
    if format_of(path) == "parquet":
        types = types_of_schema(read_footer(path)[0])
    else:
        types = ColumnTypes()
        for lines, _ in read_batches(path, limit):
            types = types.merge(types_of_values([line.values for line in lines]))
    taken = [field for field in FIELDS[kind] if field in types.types and field not in _consumed(columns)]
    if kind == "triples" and not pa.types.is_boolean(types.types.get("identity", pa.bool_())):
        taken.append("identity")
    if taken:
        chosen = ", ".join(f"{field} from {column!r}" for field, column in columns.items())
        raise UsageError(
            f"{path}: column {', '.join(map(repr, taken))} would be overwritten ({chosen}); rename or drop it"
        )
    return Look(path, columns, types)


def _is_chat(columns: dict[str, str]) -> bool:
    return columns["question"] == columns.get("response")


def _consumed(columns: dict[str, str]) -> set[str]:
    """Return the columns that become our fields; a chat stays beside what is taken from it."""
    return set() if _is_chat(columns) else set(columns.values())


def _computed(kind: Kind) -> tuple[str, ...]:
    """Return the columns of the table that do not pass through."""
    return ("id", *FIELDS[kind], *(("question_id", "identity") if kind == "triples" else ()))


def schema_of(kind: Kind, looks: Sequence[Look]) -> pa.Schema:
    """Return the table's schema: id and our fields, then all other columns.

    They are null in files that lack them. Columns whose values have no common Arrow type become JSON texts. Raises
    UsageError naming the files where a Parquet file has a column of another type than the others.
    """
    merged = ColumnTypes()
    for look in looks:
        consumed = _consumed(look.columns)
        passing = {name: type for name, type in look.types.types.items() if name not in consumed}
        merged = merged.merge(ColumnTypes(passing, look.types.wide))
    declared = any(format_of(look.path) == "parquet" for look in looks)
    types = {
        name: pa.string() if has_empty_object(type) or (pa.types.is_null(type) and not declared) else type
        for name, type in merged.types.items()
    }
    ours = TRIPLES if kind == "triples" else pa.schema(dict.fromkeys(_computed(kind), pa.string()))
    schema = pa.schema([*ours, *(pair for pair in types.items() if pair[0] not in ours.names)])
    for look in looks:
        if format_of(look.path) == "parquet":
            _check_types(kind, schema, look, looks)
    return schema


def _check_types(kind: Kind, schema: pa.Schema, look: Look, looks: Sequence[Look]) -> None:
    """Raise UsageError where a Parquet file's column cannot be cast to the type of the whole."""
    for name in schema.names:
        if name not in look.types.types or name in {*_computed(kind), *_consumed(look.columns)}:
            continue
        wanted, declared = schema.field(name).type, look.types.types[name]
        try:
            pa.nulls(0, declared).cast(wanted)
            fits = is_text(declared) or pa.types.is_null(declared) or not is_text(wanted)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            fits = False
        if not fits:
            with_column = (sibling for sibling in looks if name in sibling.types.types)
            apart = (sibling for sibling in with_column if is_text(look.types.merge(sibling.types).types[name]))
            against = next(
                (f"in {sibling.path} {sibling.types.types[name]}" for sibling in apart), f"here it is {wanted}"
            )
            raise UsageError(f"{look.path}: column {name!r} is {declared}, {against}; give all files the same type")


def normalise(
    line: Line, kind: Kind, columns: dict[str, str], requests: Requests | None = None
) -> dict[str, str] | str:
    """Return the fields of a record under our names, or the name of its fault.

    A question or answer that is null, empty, not text or longer than 1,048,576 characters is refused.
    """
    try:
        values = _fields(line, kind, columns, requests)
    except Unusable as error:
        return str(error)
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


def _fields(line: Line, kind: Kind, columns: dict[str, str], requests: Requests | None) -> dict[str, Any]:
    values = {field: line.values.get(columns[field]) for field in FIELDS[kind]}
    if requests is not None:
        answer = read_answer(line.values)
        return {"question": requests.question(values["question"]), "response": answer}
    if _is_chat(columns):
        return dict(zip(FIELDS[kind], split_messages(values["question"]), strict=True))
    if kind == "triples" and columns["question"] == columns["correction"]:
        chosen, rejected = values["correction"], values["response"]
        if not isinstance(chosen, str) or not isinstance(rejected, str):
            raise Unusable("not_text")
        parts = split_dialogue(chosen, rejected)
        if parts is None:
            raise Unusable("no_common_question")
        return dict(zip(FIELDS[kind], parts, strict=True))
    return values


def read_chunks(
    shard: int,
    path: str,
    kind: Kind,
    columns: dict[str, str],
    schema: pa.Schema,
    limit: int | None = None,
    batch_input: tuple[tuple[str, str], ...] = (),
) -> Iterator[Chunk]:
    """Yield a file as chunks of `row` (a struct of `schema`).

    Where it is null, the columns of REJECTS are filled. A second row with one id of the file's own is `duplicate_id`.
    Of a file that breaks off in the middle there are the rows before the break and one rejected row. `batch_input`
    holds the requests, as for `open_requests`, where these are their results.
    """
    requests = open_requests(batch_input) if batch_input else None
    seen: set[str] = set()
    first_row = 0
    computed = pa.schema([field for field in schema if field.name in _computed(kind)])
    passing = pa.schema([field for field in schema if field.name not in _computed(kind)])
    for lines, batch in read_batches(path, limit, {*columns.values(), *computed.names}):
        rows = [_row(line, kind, columns, seen, requests) for line in lines]
        ours = pa.RecordBatch.from_pylist([{} if isinstance(row, str) else row for row in rows], computed)
        untouched = _passing(lines, batch, _consumed(columns), passing)
        parts = [(ours if field.name in computed.names else untouched).column(field.name) for field in schema]
        errors = [row if isinstance(row, str) else None for row in rows]
        rejected = [_reject(path, line, error) if error else {} for line, error in zip(lines, errors, strict=True)]
        rejects = pa.RecordBatch.from_pylist(rejected, REJECTS)
        row = pa.StructArray.from_arrays(parts, fields=list(schema), mask=rejects.column("error").is_valid())
        marked = pa.RecordBatch.from_arrays([row, *rejects.columns], names=["row", *REJECTS.names])
        yield Chunk(shard, first_row, len(rows), marked)
        first_row += len(rows)


def _reject(path: str, line: Line, error: str) -> dict[str, Any]:
    raw = line.raw or excerpt(json.dumps(line.values, default=str, ensure_ascii=False))
    return {"source": redact_urls(path), "line": line.number, "raw": raw, "error": error}


def _row(
    line: Line, kind: Kind, columns: dict[str, str], seen: set[str], requests: Requests | None
) -> dict[str, Any] | str:
    """Return a record's columns that do not pass through, or the name of its fault."""
    fields = line.error or normalise(line, kind, columns, requests)
    if isinstance(fields, str):
        return fields
    own_id = line.values.get(columns.get("id", "id"))
    row_id = str(own_id) if own_id is not None else content_id(kind, *fields.values())
    if own_id is not None and row_id in seen:
        return "duplicate_id"
    if own_id is not None:
        seen.add(row_id)
    if kind != "triples":
        return {"id": row_id, **fields}
    question_id = line.values.get("question_id")
    if question_id is None:
        question_id = content_id("questions", fields["question"])
    identity = fields["response"] == fields["correction"]
    return {"id": row_id, "question_id": str(question_id), **fields, "identity": identity}


def _passing(lines: list[Line], batch: pa.RecordBatch | None, consumed: set[str], passing: pa.Schema) -> pa.RecordBatch:
    """Return the columns that pass through, those of a Parquet file's batch as they are."""
    if batch is not None:
        return conform(batch.select([name for name in batch.schema.names if name not in consumed]), passing)
    rows = [
        {field.name: _fit(line.values.get(field.name), field.type) for field in passing if field.name not in consumed}
        for line in lines
    ]
    return pa.RecordBatch.from_pylist(rows, passing)


def _fit(value: Any, type: pa.DataType) -> Any:
    if value is not None and is_text(type) and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value
