"""Setting columns of a batch, whether they are there already or not."""

import pyarrow as pa


def with_columns(batch: pa.RecordBatch, **columns: pa.Array) -> pa.RecordBatch:
    """The batch with these columns: replaced in place where they are there, appended where not."""
    for name, values in columns.items():
        index = batch.schema.get_field_index(name)
        batch = batch.append_column(name, values) if index < 0 else batch.set_column(index, name, values)
    return batch
