"""Setting columns of a batch, setting a user's own aside, and saying which are missing or in the way."""

from collections.abc import Collection, Iterable

import pyarrow as pa

from schemas.errors import UsageError

ASIDE = "aside:"


def with_columns(batch: pa.RecordBatch, **columns: pa.Array) -> pa.RecordBatch:
    """Return the batch with these columns: replaced in place where they are there, appended where not."""
    for name, values in columns.items():
        index = batch.schema.get_field_index(name)
        batch = batch.append_column(name, values) if index < 0 else batch.set_column(index, name, values)
    return batch


def set_aside(batch: pa.RecordBatch, used: Collection[str]) -> pa.RecordBatch:
    """Rename every column but those `used`, so that no step overwrites one."""
    return batch.rename_columns([name if name in used else ASIDE + name for name in batch.schema.names])


def bring_back(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Undo `set_aside`: each column has its own name again.

    It replaces what a step called so.
    """
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    aside = {name.removeprefix(ASIDE): columns.pop(name) for name in list(columns) if name.startswith(ASIDE)}
    columns |= aside
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def check_texts(path: str, schema: pa.Schema, needed: Collection[str]) -> None:
    """Raise UsageError naming columns that are missing from the table at `path`, or not text."""
    if missing := [name for name in needed if name not in schema.names]:
        raise UsageError(f"{path}: has no column {', '.join(map(repr, missing))}; it has {', '.join(schema.names)}")
    for name in needed:
        if not is_text(schema.field(name).type):
            raise UsageError(f"{path}: column {name!r} is not text but {schema.field(name).type}")


def check_free(path: str, schema: pa.Schema, added: Iterable[str], adds: str) -> None:
    """Raise UsageError naming the table's columns that `adds` (a stage) is to add."""
    if taken := [name for name in added if name in schema.names]:
        raise UsageError(
            f"{path}: has {', '.join(map(repr, taken))} already, which {adds} adds; rename or drop such columns"
        )
