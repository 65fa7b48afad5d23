"""One Parquet file, in row groups that do not depend on how its rows are cut into batches."""

from contextlib import ExitStack, suppress

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import StageError
from transforms.tables import storage
from transforms.tables.shards import Shard, parquet_footer, read_shard

GROUP_ROWS = 16384
BLOCK_ROWS = 16
GROUP_BYTES = 64 << 20


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with exactly the columns of `schema`: absent ones null, others left out.

    Raises StageError naming the column whose type does not fit.
    """
    columns = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            columns.append(pa.nulls(batch.num_rows, field.type))
            continue
        try:
            columns.append(batch.column(index).cast(field.type))
        except pa.ArrowInvalid as error:
            raise StageError(f"column {field.name!r} does not fit {field.type}: {error}") from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class ShardFile:
    """A Parquet file in row groups of GROUP_ROWS rows, or fewer where they are large; there once it is closed.

    The row groups are the same however the rows are cut into batches: they end at blocks of BLOCK_ROWS rows.
    """

    def __init__(self, path: str, schema: pa.Schema):
        self.path = path
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._file = ExitStack()
        sink = self._file.enter_context(storage.open_output(path))
        self._writer = self._file.enter_context(pq.ParquetWriter(sink, schema, compression="zstd"))

    def write(self, batch: pa.RecordBatch) -> None:
        size = sum(map(_bytes_of, batch.columns))
        if self._rows + batch.num_rows < GROUP_ROWS and self._bytes + size < GROUP_BYTES:
            self._add(batch, size)
            return
        while batch.num_rows:
            piece = batch.slice(0, BLOCK_ROWS - self._rows % BLOCK_ROWS)
            batch = batch.slice(piece.num_rows)
            self._add(piece, sum(map(_bytes_of, piece.columns)))
            if self._rows % BLOCK_ROWS == 0 and (self._rows == GROUP_ROWS or self._bytes >= GROUP_BYTES):
                self._flush()

    def _add(self, batch: pa.RecordBatch, size: int) -> None:
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += size

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._file.close()

    def __del__(self) -> None:
        with suppress(BaseException):  # given up: nothing of it stays
            self._file.__exit__(GeneratorExit, GeneratorExit(), None)

    def _flush(self) -> None:
        try:
            rows = pa.Table.from_batches(self._batches).combine_chunks()  # else pages end where batches did
            self._writer.write_table(rows, row_group_size=GROUP_ROWS)
        except BaseException as error:
            self._file.__exit__(type(error), error, error.__traceback__)
            raise
        self._batches, self._rows, self._bytes = [], 0, 0


def _bytes_of(values: pa.Array) -> int:
    """Count the bytes of an array's values.

    Unlike `nbytes`, they add up however the array is cut.
    """
    if isinstance(values, pa.StructArray):
        return sum(map(_bytes_of, values.flatten()))
    if isinstance(values, pa.MapArray):
        first, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
        return sum(_bytes_of(part.slice(first, end - first)) for part in (values.keys, values.items))
    if isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _bytes_of(values.flatten())
    if isinstance(values, pa.StringArray | pa.LargeStringArray | pa.BinaryArray | pa.LargeBinaryArray):
        return pc.sum(pc.binary_length(values)).as_py() or 0
    try:
        return len(values) * max(8, values.type.bit_width) // 8
    except ValueError:  # views: not counted
        return 0


def join_files(parts: list[str], path: str, schema: pa.Schema) -> dict:
    """Join parts into one file; return its entry for the manifest."""
    if len(parts) == 1:
        storage.move(parts[0], path)
    else:
        joined = ShardFile(path, schema)
        for part in parts:
            for chunk in read_shard(Shard(0, part, parquet_footer(part)[0].num_rows), None, None):
                joined.write(chunk.batch)
        joined.close()
    digest, size = storage.content_digest(path)
    return {"rows": parquet_footer(path)[0].num_rows, "bytes": size, "digest": digest}
