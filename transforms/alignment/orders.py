"""The order in which rows visit a squad's members, where it follows from the scores of all rows.

`corpus-mean` takes the criteria by their mean scores over the whole corpus, lowest first: no shard and no batch size
changes it. `paper-002` does as the reference code does: rows are sorted by question and response, and each 64 of them
go by their own means. N rows, M members.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.alignment.members import Member
from transforms.alignment.scoring import score_matrix
from transforms.tables.chunks import Chunk
from transforms.tables.table import Table

ROWS_PER_BATCH = 64


def by_corpus_mean(scores: Table, members: Sequence[Member]) -> tuple[int, ...]:
    """Return the members' numbers by ascending mean score."""
    sums_M, counts_M = np.zeros(len(members)), np.zeros(len(members))
    for batch in scores.batches(["scores"]):
        scores_NM = score_matrix(batch, "scores", members)
        sums_M += np.nansum(scores_NM, axis=0)
        counts_M += np.isfinite(scores_NM).sum(axis=0)
    return ascending(sums_M / np.maximum(counts_M, 1))


def by_sorted_batches(
    corpus: Table, scores: Table, members: Sequence[Member], answer: str = "response"
) -> dict[int, np.ndarray]:
    """Return every row's order, by shard: int8[N, M].

    answer: the column that is read as the response. It holds the corpus's texts in memory, as the reference code does.
    """
    if not corpus.rows:
        return {}
    # texts [c, a, b], batches of 2: sorted rows [1, 2, 0]; rows 1 and 2 go by the means of both, row 0 by its own
    texts = pl.from_arrow(corpus.to_arrow(["question", answer]))
    sorted_rows = texts.with_row_index("row").sort("question", answer, "row")["row"].to_numpy()
    scores_NM = np.concatenate([score_matrix(batch, "scores", members) for batch in scores.batches(["scores"])])
    orders_NM = np.empty(scores_NM.shape, np.int8)
    for start in range(0, len(sorted_rows), ROWS_PER_BATCH):
        rows = sorted_rows[start : start + ROWS_PER_BATCH]
        counts_M = np.isfinite(scores_NM[rows]).sum(axis=0)
        orders_NM[rows] = ascending(np.nansum(scores_NM[rows], axis=0) / np.maximum(counts_M, 1))
    ends = np.cumsum([shard.rows for shard in corpus.shards])
    parts = np.split(orders_NM, ends[:-1])
    return {shard.index: part for shard, part in zip(corpus.shards, parts, strict=True)}


def ascending(means_M: np.ndarray) -> tuple[int, ...]:
    """Return the members' numbers by ascending mean; equal ones stay as they stand."""
    return tuple(int(number) for number in np.argsort(means_M, kind="stable"))


@dataclass
class AddOrders(beam.PTransform):
    """Add `order`, the members' numbers in the order of a row's turns, from arrays by shard."""

    orders: dict[int, np.ndarray]  # int8[N, M] each

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        return chunks | beam.Map(self._add).with_output_types(Chunk)

    def _add(self, chunk: Chunk) -> Chunk:
        orders_NM = self.orders[chunk.shard][chunk.first_row : chunk.first_row + chunk.rows]
        column = pa.FixedSizeListArray.from_arrays(pa.array(orders_NM.ravel()), orders_NM.shape[1])
        return chunk.with_batch(chunk.batch.append_column("order", column))
