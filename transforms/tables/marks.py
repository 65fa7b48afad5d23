"""Marks: a batch function never removes a row, it says why the row should go; `WriteTables` then parts them.

`drop_reason` names the rule that a row broke, `error` what failed in producing it. Null means neither.
"""

import pyarrow as pa
import pyarrow.compute as pc

from transforms.tables.columns import with_columns


def _mark(batch: pa.RecordBatch, column: str, mask: pa.BooleanArray, reason: str) -> pa.RecordBatch:
    mask = pc.fill_null(mask, False)
    old = batch.column(column) if column in batch.schema.names else pa.nulls(batch.num_rows, pa.string())
    marks = pc.if_else(pc.and_(mask, pc.is_null(old)), pa.scalar(reason, pa.string()), old)
    return with_columns(batch, **{column: marks})


def drop_where(batch: pa.RecordBatch, mask: pa.BooleanArray, reason: str) -> pa.RecordBatch:
    """Mark the rows of `mask` with `drop_reason`; a row keeps the first reason it was given."""
    return _mark(batch, "drop_reason", mask, reason)


def reject_where(batch: pa.RecordBatch, mask: pa.BooleanArray, error: str) -> pa.RecordBatch:
    """Mark the rows of `mask` with `error`; a row keeps the first error it met."""
    return _mark(batch, "error", mask, error)


def kept(batch: pa.RecordBatch) -> pa.BooleanArray:
    """Return True where a row carries neither a drop reason nor an error."""
    mask = pa.array([True] * batch.num_rows, pa.bool_())
    for column in ("drop_reason", "error"):
        if column in batch.schema.names:
            mask = pc.and_(mask, pc.is_null(batch.column(column)))
    return mask
