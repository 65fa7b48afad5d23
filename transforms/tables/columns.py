"""Setting columns of a batch, setting a user's own aside, and saying which are missing or in the way."""

from collections.abc import Collection, Iterable

import pyarrow as pa

from schemas.errors import UsageError

ASIDE = "aside:"


def with_columns(batch: pa.RecordBatch, **columns: pa.Array) -> pa.RecordBatch:
    """The batch with these columns: replaced in place where they are there, appended where not."""
    for name, values in columns.items():
        index = batch.schema.get_field_index(name)
        batch = batch.append_column(name, values) if index < 0 else batch.set_column(index, name, values)
    return batch


def set_aside(batch: pa.RecordBatch, used: Collection[str]) -> pa.RecordBatch:
    """The batch with every column but those `used` under a name that no step gives, so that none is overwritten."""
    return batch.rename_columns([name if name in used else ASIDE + name for name in batch.schema.names])


def bring_back(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with what `set_aside` renamed under its own name again, in place of what a step called so."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    aside = {name.removeprefix(ASIDE): columns.pop(name) for name in list(columns) if name.startswith(ASIDE)}
    columns |= aside
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def check_texts(path: str, schema: pa.Schema, needed: Collection[str]) -> None:
    """UsageError naming the columns that the table at `path` lacks, or one that is not text."""
    if missing := [name for name in needed if name not in schema.names]:
        raise UsageError(f"{path}: has no column {', '.join(map(repr, missing))}; it has {', '.join(schema.names)}")
    for name in needed:
        if not is_text(schema.field(name).type):
            raise UsageError(f"{path}: column {name!r} is not text but {schema.field(name).type}")


def check_free(path: str, schema: pa.Schema, added: Iterable[str], adds: str) -> None:
    """UsageError naming the columns that the table at `path` has already, though `adds` (a stage) gives them."""
    if taken := [name for name in added if name in schema.names]:
        raise UsageError(
            f"{path}: has {', '.join(map(repr, taken))} already, which {adds} adds; rename or drop such columns"
        )
