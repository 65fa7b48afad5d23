"""What crosses a shuffle: of a batch the slice alone."""

import apache_beam as beam
import pyarrow as pa
from copied_table import rows

from transforms.tables.chunks import Asked, BatchCoder, Chunk, ChunkCoder


def test_batch_coder_carries_the_slice_only():
    batch = pa.RecordBatch.from_pydict({"row": list(range(1000))}).slice(10, 2)
    encoded = BatchCoder().encode(batch)
    assert BatchCoder().decode(encoded).to_pylist() == [{"row": 10}, {"row": 11}]
    assert len(encoded) < 1000
    assert isinstance(beam.coders.registry.get_coder(pa.RecordBatch), BatchCoder)


def test_chunk_coder_carries_the_slice_only():
    batch = rows(0, 50).to_batches()[0].slice(10, 2)
    chunk = Chunk(3, 10, 2, batch)
    encoded = ChunkCoder().encode(chunk)
    assert ChunkCoder().decode(encoded) == chunk
    assert len(encoded) < 1000
    assert isinstance(beam.coders.registry.get_coder(Chunk), ChunkCoder)


def test_a_chunk_sums_up_what_models_were_asked_about_it():
    batch = rows(0, 2).to_batches()[0]
    chunk = Chunk(3, 10, 2, batch).with_batch(batch, Asked(2, 30, 7)).with_batch(batch)
    chunk = chunk.with_batch(batch, Asked(1, 9, 4))
    assert chunk.asked == Asked(3, 39, 11)
    assert ChunkCoder().decode(ChunkCoder().encode(chunk)) == chunk
