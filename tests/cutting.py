"""The property every batch function has: where a batch is cut never changes the rows that come out."""

from collections.abc import Callable

import pyarrow as pa


def assert_cuts_never_matter(
    function: Callable[[pa.RecordBatch], pa.RecordBatch], batch: pa.RecordBatch, cut: int
) -> None:
    """Apply the function to the whole batch and to its parts before and after row `cut`; empty parts included."""
    cut = min(cut, batch.num_rows)
    whole = function(batch)
    parts = [function(batch.slice(0, cut)), function(batch.slice(cut))]
    assert [part.schema for part in parts] == [whole.schema] * 2
    assert [row for part in parts for row in part.to_pylist()] == whole.to_pylist()
