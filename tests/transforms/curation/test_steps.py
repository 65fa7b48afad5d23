"""Steps in order: each sees what those before it left in, of the columns that it asked for."""

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from transforms.curation.decisions import kept_rows, to_decisions
from transforms.curation.steps import DecideInOrder, Step
from transforms.tables.chunks import Chunk, Keyed
from transforms.tables.marks import drop_where
from transforms.tables.read import ReadTable
from transforms.tables.table import read_table

ROWS = pa.table({"id": ["a", "b", "c", "d"], "topic": ["x", "x", "y", "z"]})


def drop_b(chunk: Chunk) -> Chunk:
    return chunk.with_batch(drop_where(chunk.batch, pc.equal(chunk.batch.column("id"), "b"), "invalid"))


def drop(row: int, reason: str):
    return to_decisions(pl.DataFrame({"shard": [0], "row": [row], "drop_reason": [reason]}))


def drop_first(chunk: Chunk):
    """Drop the first row that is still in; the reason names the columns read."""
    batch, rows = kept_rows(chunk)
    return drop(rows[0], " ".join(name for name in batch.schema.names if name in ROWS.schema.names))


def drop_third(chunk: Chunk, decided: list[Keyed]):
    """Drop the third row; the reason names the rows decided so far."""
    return drop(2, f"after {sorted(row for _, batch in decided for row in batch.column('row').to_pylist())}")


class DropFirst(beam.PTransform):
    def expand(self, chunks):
        return chunks | beam.FlatMap(drop_first).with_output_types(Keyed)


class DropThird(beam.PTransform):
    def expand(self, rows):
        judged, decided = rows
        return judged | beam.FlatMap(drop_third, beam.pvalue.AsList(decided)).with_output_types(Keyed)


def reasons(keyed: Keyed):
    return [(row["row"], row["drop_reason"]) for row in keyed[1].to_pylist()]


def test_every_step_sees_what_those_before_it_left_in(tmp_path):
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    table = read_table(str(tmp_path))
    steps = [Step("some", ["topic"], DropFirst()), Step("judged", [], DropThird()), Step("all", None, DropFirst())]
    with beam.Pipeline(runner=FnApiRunner()) as root:
        judged = root | ReadTable(table) | beam.Map(drop_b).with_output_types(Chunk)
        decisions = judged | DecideInOrder(table, steps) | beam.FlatMap(reasons)
        assert_that(decisions, equal_to([(1, "invalid"), (0, "topic"), (2, "after [0, 1]"), (3, "id topic")]))
