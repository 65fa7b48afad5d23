"""Batches as they travel through Beam: chunks, which know their rows of a shard, and bare batches under a key."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa

CHUNK_ROWS = 1024  # where a row costs a model's answer
HASHED_ROWS = 16384  # where it costs microseconds
CHUNK_BYTES = 4 << 20

Keyed = tuple[int, pa.RecordBatch]  # a shard or a bucket, and rows of hashes, positions and marks


class Asked(NamedTuple):
    """What models were asked, cached answers included: requests, and the tokens of prompts and completions."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def plus(self, more: "Asked") -> "Asked":
        return Asked(*map(sum, zip(self, more, strict=True)))


NOTHING_ASKED = Asked()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows [first_row, first_row + rows) of a shard, as they stand now, and what models were asked about them.

    A transform may change the batch, never the range of input rows it accounts for.
    """

    shard: int
    first_row: int
    rows: int
    batch: pa.RecordBatch
    asked: Asked = NOTHING_ASKED

    def with_batch(self, batch: pa.RecordBatch, asked: Asked = NOTHING_ASKED) -> "Chunk":
        """Return the chunk with another batch; asked: what models were asked for it."""
        return Chunk(self.shard, self.first_row, self.rows, batch, self.asked.plus(asked))


def end_of_shard(shard: int, rows: int) -> Chunk:
    """Return what follows the last chunk of a shard whose number of rows nobody knew before."""
    return Chunk(shard, rows, 0, pa.RecordBatch.from_arrays([], schema=pa.schema([])))


class BatchCoder(beam.coders.Coder):
    """Arrow IPC: unlike a pickle, it carries the slice and not the buffer that the slice was cut from."""

    def encode(self, batch: pa.RecordBatch) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        with pa.ipc.open_stream(pa.py_buffer(encoded)) as reader:
            return reader.read_next_batch()

    def estimate_size(self, batch: pa.RecordBatch) -> int:
        return batch.nbytes

    def is_deterministic(self) -> bool:
        return True


class ChunkCoder(beam.coders.Coder):
    """Arrow IPC as in BatchCoder, behind the rows that the chunk stands for and what was asked about them."""

    _head = struct.Struct("<6q")

    def encode(self, chunk: Chunk) -> bytes:
        sink = pa.BufferOutputStream()
        sink.write(self._head.pack(chunk.shard, chunk.first_row, chunk.rows, *chunk.asked))
        with pa.ipc.new_stream(sink, chunk.batch.schema) as writer:
            writer.write_batch(chunk.batch)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> Chunk:
        shard, first_row, rows, *asked = self._head.unpack_from(encoded)
        with pa.ipc.open_stream(pa.py_buffer(encoded)[self._head.size :]) as reader:
            return Chunk(shard, first_row, rows, reader.read_next_batch(), Asked(*asked))

    def estimate_size(self, chunk: Chunk) -> int:
        return chunk.batch.nbytes  # Beam's counters would encode a chunk to learn its size

    def is_deterministic(self) -> bool:
        return True


@dataclass
class MapBatches(beam.PTransform):
    """Apply pure functions RecordBatch -> RecordBatch, in order."""

    functions: tuple[Callable[[pa.RecordBatch], pa.RecordBatch], ...]

    def __init__(self, *functions: Callable[[pa.RecordBatch], pa.RecordBatch]):
        super().__init__()
        self.functions = functions

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        return chunks | beam.Map(self._apply).with_output_types(Chunk)

    def _apply(self, chunk: Chunk) -> Chunk:
        batch = chunk.batch
        for function in self.functions:
            batch = function(batch)
        return chunk.with_batch(batch)


beam.coders.registry.register_coder(Chunk, ChunkCoder)
beam.coders.registry.register_coder(pa.RecordBatch, BatchCoder)
