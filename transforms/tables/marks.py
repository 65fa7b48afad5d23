"""Marks: a batch function never removes a row, it says why the row should go; `WriteTables` then parts them.

`drop_reason` names the rule that a row broke, `error` what failed in producing it. Null means neither.
"""

import pyarrow as pa
import pyarrow.compute as pc

from transforms.tables.columns import with_columns


def _mark(batch: pa.RecordBatch, column: str, is_marked: pa.BooleanArray, reason: str) -> pa.RecordBatch:
    is_marked = pc.fill_null(is_marked, False)
    old = batch.column(column) if column in batch.schema.names else pa.nulls(batch.num_rows, pa.string())
    marks = pc.if_else(pc.and_(is_marked, pc.is_null(old)), pa.scalar(reason, pa.string()), old)
    return with_columns(batch, **{column: marks})


def drop_where(batch: pa.RecordBatch, is_dropped: pa.BooleanArray, reason: str) -> pa.RecordBatch:
    """Mark the rows where `is_dropped` with `drop_reason`; a row keeps the first reason it was given."""
    return _mark(batch, "drop_reason", is_dropped, reason)


def reject_where(batch: pa.RecordBatch, is_rejected: pa.BooleanArray, error: str) -> pa.RecordBatch:
    """Mark the rows where `is_rejected` with `error`; a row keeps the first error it met."""
    return _mark(batch, "error", is_rejected, error)


def kept(batch: pa.RecordBatch) -> pa.BooleanArray:
    """Return True where a row carries neither a drop reason nor an error."""
    is_kept = pa.array([True] * batch.num_rows, pa.bool_())
    for column in ("drop_reason", "error"):
        if column in batch.schema.names:
            is_kept = pc.and_(is_kept, pc.is_null(batch.column(column)))
    return is_kept
