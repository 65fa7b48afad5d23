"""Training shards from curated triples: the aligner's and the inspector's tables, in shards of even size.

The rows of a split are dealt out in the order of the curated table. The driver plans from one small column which rows
of which curated row groups make up a training shard; whoever writes that shard reads just those. Trainers shuffle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import ALIGNER_ROWS, INSPECTOR_ROWS
from transforms.curation.split import SPLITS
from transforms.tables.chunks import Chunk, MapBatches
from transforms.tables.shards import Shard, Target, read_shard, row_groups
from transforms.tables.table import Table
from transforms.tables.write import WriteTables

LABELS = (("response", 0), ("correction", 1))

RowGroup = tuple[int, int]  # the index of a curated shard, the number of a row group in it


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a split in a curated row group, counted among the rows of that split alone."""

    split: str
    row_group: RowGroup
    start: int
    stop: int


@dataclass(frozen=True)
class Trainer:
    """What a trainer reads: its schema, the split column its rows are chosen by, and rows, with their `split`, made of
    curated triples."""

    name: str
    schema: pa.Schema
    column: str
    to_rows: Callable[[pa.RecordBatch], pa.RecordBatch]
    rows_per_triple: int


def aligner_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The aligner's columns of curated triples, identity triples included."""
    return batch.select([*ALIGNER_ROWS.names, "split"])


def inspector_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Two rows a triple, after one another: its response with label 0, its correction with label 1.

    Their ids are the triple's with `:response` and `:correction` behind.
    """
    order = pa.array(np.arange(2 * batch.num_rows).reshape(2, -1).T.ravel())
    ids = [pc.binary_join_element_wise(batch.column("id"), name, ":") for name, _ in LABELS]
    answers = [batch.column(name) for name, _ in LABELS]
    labels = [pa.repeat(pa.scalar(label, pa.int8()), batch.num_rows) for _, label in LABELS]
    twice = [batch.column("question")] * 2, [batch.column("inspector_split")] * 2
    columns = [pa.concat_arrays(parts).take(order) for parts in (ids, twice[0], answers, labels, twice[1])]
    return pa.RecordBatch.from_arrays(columns, ["id", "question", "answer", "label", "split"])


TRAINERS = (
    Trainer("aligner", ALIGNER_ROWS, "split", aligner_rows, 1),
    Trainer("inspector", INSPECTOR_ROWS, "inspector_split", inspector_rows, 2),
)


def count_rows(curated: Table, column: str) -> dict[str, dict[RowGroup, int]]:
    """How many rows of each split every curated row group has, by the split column named."""
    counts: dict[str, dict[RowGroup, int]] = {split: {} for split in SPLITS}
    for shard in curated.shards:
        for _, group in row_groups(shard):
            for chunk in read_shard(shard, [column], group):
                for found in pc.value_counts(chunk.batch.column(column)).to_pylist():
                    if found["values"] is not None:
                        of_group = counts[found["values"]]
                        of_group[shard.index, group] = of_group.get((shard.index, group), 0) + found["counts"]
    return counts


def plan_shards(counts: dict[str, dict[RowGroup, int]], triples_per_shard: int) -> list[list[Piece]]:
    """The pieces of every training shard, from the rows of each split in each curated row group.

    A split of n triples takes ⌈n / triples_per_shard⌉ shards whose sizes differ by at most one triple.
    """
    shards: list[list[Piece]] = []
    for split, of_group in counts.items():
        total = sum(of_group.values())
        count = -(-total // triples_per_shard)
        shards += [[] for _ in range(count - len(shards))]
        first = 0
        for row_group, rows in sorted(of_group.items()):
            for index in range(first * count // max(total, 1), count):
                start, stop = (max(total * k // count - first, 0) for k in (index, index + 1))
                if start >= rows:
                    break
                if start < stop:
                    shards[index].append(Piece(split, row_group, start, min(stop, rows)))
            first += rows
    return shards


@dataclass
class WriteTrainingShards(beam.PTransform):
    """Write the tables train, validation and test of one trainer; shard k of each holds the pieces `plan[k]`."""

    curated: Table
    trainer: Trainer
    plan: list[list[Piece]]
    directory: str
    about: dict
    skip: frozenset[int] = frozenset()

    @property
    def targets(self) -> dict[int, Target]:
        return {index: Target(f"shard-{index:05d}") for index in range(len(self.plan))}

    def expand(self, root: beam.Pipeline) -> beam.PCollection[str | None]:
        schemas = dict.fromkeys(SPLITS, self.trainer.schema)
        return (
            root
            | "Plan" >> beam.Create([item for item in enumerate(self.plan) if item[0] not in self.skip])
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMapTuple(self._read).with_output_types(Chunk)
            | "Rows" >> MapBatches(self.trainer.to_rows)
            | "Write" >> WriteTables(self.directory, schemas, by_split, self.targets, self.about)
        )

    def _read(self, index: int, pieces: list[Piece]) -> Iterator[Chunk]:
        shards: dict[int, Shard] = {shard.index: shard for shard in self.curated.shards}
        first_row = 0
        for piece in pieces:
            shard, group = piece.row_group
            rank = 0
            for chunk in read_shard(shards[shard], None, group):
                rows = chunk.batch.filter(pc.equal(chunk.batch.column(self.trainer.column), piece.split))
                start, stop = max(piece.start - rank, 0), max(piece.stop - rank, 0)
                wanted = rows.slice(start, max(stop - start, 0))
                rank += rows.num_rows
                if wanted.num_rows:
                    yield Chunk(index, first_row, wanted.num_rows, wanted)
                    first_row += wanted.num_rows


def by_split(chunk: Chunk) -> dict[str, pa.RecordBatch]:
    """A chunk's rows by the table they go to."""
    return {split: chunk.batch.filter(pc.equal(chunk.batch.column("split"), split)) for split in SPLITS}
