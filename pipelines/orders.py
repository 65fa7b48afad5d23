"""The order in which rows visit a squad's members, where it follows from all scores: a first pass that only inspects.

`corpus-mean` takes the criteria by their mean scores over the whole corpus, lowest first: no shard and no batch size
changes it. `paper-002` does as the reference code does: rows are sorted by question and response, and each 64 of them
go by their own means.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from pipelines.runtime.stage import Stage, complete
from transforms.alignment.members import Member
from transforms.alignment.routing import start_state
from transforms.alignment.scoring import Score, score_matrix
from transforms.engines.inspector import inspector_digest
from transforms.tables.chunks import Chunk, MapBatches
from transforms.tables.read import ReadTable
from transforms.tables.table import Table
from transforms.tables.write import WriteTables

ROWS_PER_BATCH = 64


def inspect(
    corpus: Table, members: Sequence[Member], output: str, beam_arguments: Sequence[str], *, bf16: bool = False
) -> Table:
    """The scores of every row, kept in `inspect/` under the run, with the corpus's shards and rows."""
    inspectors = {member.criterion: member.inspector for member in members}
    identity = {
        "schema": corpus.schema.to_string(),
        "inspectors": {criterion: inspector_digest(folder) for criterion, folder in inspectors.items()},
        "bf16": bf16,
    }
    stage = Stage.under(output, "inspect", identity, corpus.digest)
    schema = pa.schema({"id": pa.string(), "scores": pa.struct({name: pa.float64() for name in inspectors})})

    def build(root: beam.Pipeline, skip: frozenset[int]) -> None:
        (
            root
            | "Read" >> ReadTable(corpus, ["id", "question", "response"], skip)
            | "Begin" >> MapBatches(start_state)
            | "Inspect" >> Score(inspectors, "response", "scores", "score responses", bf16)
            | "Write" >> WriteTables(stage.directory, {"scores": schema}, every_row, corpus.targets, stage.about)
        )

    complete(stage, corpus, build, beam_arguments)
    scores = stage.table("scores")
    pairs = zip(scores.shards, corpus.shards, strict=True)
    return replace(scores, shards=tuple(replace(shard, index=other.index) for shard, other in pairs))


def every_row(chunk: Chunk) -> dict[str, pa.RecordBatch]:
    return {"scores": chunk.batch}


def by_corpus_mean(scores: Table, members: Sequence[Member]) -> tuple[int, ...]:
    """Members' numbers by ascending mean score."""
    sums, counts = np.zeros(len(members)), np.zeros(len(members))
    for batch in scores.batches(["scores"]):
        scores_NM = score_matrix(batch, "scores", members)
        sums += np.nansum(scores_NM, axis=0)
        counts += np.isfinite(scores_NM).sum(axis=0)
    return ascending(sums / np.maximum(counts, 1))


def by_sorted_batches(corpus: Table, scores: Table, members: Sequence[Member]) -> dict[int, np.ndarray]:
    """Every row's order, by shard: int8[rows, M]. Holds the corpus's texts in memory, as the reference code does."""
    if not corpus.rows:
        return {}
    texts = pl.from_arrow(corpus.to_arrow(["question", "response"]))
    ranks = texts.with_row_index("place").sort("question", "response", "place")["place"].to_numpy()
    scores_NM = np.concatenate([score_matrix(batch, "scores", members) for batch in scores.batches(["scores"])])
    orders = np.empty(scores_NM.shape, np.int8)
    for start in range(0, len(ranks), ROWS_PER_BATCH):
        rows = ranks[start : start + ROWS_PER_BATCH]
        known_NM = np.isfinite(scores_NM[rows])
        means = np.nansum(scores_NM[rows], axis=0) / np.maximum(known_NM.sum(axis=0), 1)
        orders[rows] = ascending(means)
    ends = np.cumsum([shard.rows for shard in corpus.shards])
    parts = np.split(orders, ends[:-1])
    return {shard.index: part for shard, part in zip(corpus.shards, parts, strict=True)}


def ascending(means: np.ndarray) -> tuple[int, ...]:
    return tuple(int(number) for number in np.argsort(means, kind="stable"))


@dataclass
class AddOrders(beam.PTransform):
    """Add `order`, the members' numbers in the order of a row's turns, from arrays by shard."""

    orders: dict[int, np.ndarray]

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        return chunks | beam.Map(self._add).with_output_types(Chunk)

    def _add(self, chunk: Chunk) -> Chunk:
        orders_NM = self.orders[chunk.shard][chunk.first_row : chunk.first_row + chunk.rows]
        column = pa.FixedSizeListArray.from_arrays(pa.array(orders_NM.ravel()), orders_NM.shape[1])
        return chunk.with_batch(chunk.batch.append_column("order", column))
