"""Rounds: a driver asks for new rows again and again, and knows at any time which of them are kept.

A candidate has two marks, `drop_reason` and `error` (transforms.tables.marks); it is kept while both are null.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Round:
    """Prompts of one round, and how a batch of them, answered, becomes candidates of `schema`."""

    name: str
    prompts: pa.RecordBatch
    parse: Callable[[pa.RecordBatch], pa.RecordBatch]
    schema: pa.Schema


@dataclass(frozen=True)
class Candidates:
    """What all rounds have brought so far, in the order in which it came."""

    table: pa.Table

    def plus(self, rows: pa.Table) -> "Candidates":
        """Return these and more rows; a column that one side lacks is null there."""
        return Candidates(pa.concat_tables([self.table, rows], promote_options="default"))

    @property
    def kept(self) -> pa.Table:
        """Return the rows without a mark."""
        is_kept = pc.and_(pc.is_null(self.table["drop_reason"]), pc.is_null(self.table["error"]))
        return self.table.filter(is_kept).drop_columns(["drop_reason", "error"])

    @property
    def dropped(self) -> pa.Table:
        """Return the dropped rows, each with its `drop_reason`."""
        return self.table.filter(pc.is_valid(self.table["drop_reason"])).drop_columns(["error"])

    @property
    def failed(self) -> pa.Table:
        """Return the failed rows, each with its `error`."""
        return self.table.filter(pc.is_valid(self.table["error"])).drop_columns(["drop_reason"])

    def without_failures(self) -> "Candidates":
        """Return the same rows with every `error` as a drop reason."""
        table = self.table
        reasons = pc.coalesce(table["drop_reason"], table["error"])
        table = table.set_column(table.schema.names.index("drop_reason"), "drop_reason", reasons)
        nothing = pa.nulls(table.num_rows, pa.string())
        return Candidates(table.set_column(table.schema.names.index("error"), "error", nothing))

    def counts(self, at_most: int | None = None) -> dict:
        """Return how many rows came in, are kept, were dropped and failed, as a manifest counts them.

        at_most: so many rows are kept; what is unmarked beyond them is dropped as `over_count`.
        """
        unmarked = self.kept.num_rows
        kept = unmarked if at_most is None else min(unmarked, at_most)
        drops = _by_reason(self.dropped["drop_reason"]) | ({"over_count": unmarked - kept} if unmarked > kept else {})
        return {"in": self.table.num_rows, "kept": kept, "drops": drops, "rejects": _by_reason(self.failed["error"])}


def _by_reason(marks: pa.ChunkedArray) -> dict[str, int]:
    """Return rows by reason, most first; what stands behind a colon tells of one row alone."""
    return dict(Counter(mark.split(":")[0] for mark in marks.to_pylist()).most_common())
