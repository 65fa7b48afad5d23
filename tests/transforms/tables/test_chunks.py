"""What crosses a shuffle: bare batches under a key."""

import apache_beam as beam
import pyarrow as pa

from transforms.tables.chunks import BatchCoder


def test_batch_coder_carries_the_slice_only():
    batch = pa.RecordBatch.from_pydict({"row": list(range(1000))}).slice(10, 2)
    encoded = BatchCoder().encode(batch)
    assert BatchCoder().decode(encoded).to_pylist() == [{"row": 10}, {"row": 11}]
    assert len(encoded) < 1000
    assert isinstance(beam.coders.registry.get_coder(pa.RecordBatch), BatchCoder)
