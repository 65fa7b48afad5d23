"""Training shards from curated rows: each trainer's tables train, validation and test, in shards of even size.

The rows of a split are dealt out in the order of the curated table. The driver plans from one small column which rows
of which curated row groups make up a training shard. The worker that writes the shard reads just those. Trainers
shuffle.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import SPLITS
from transforms.tables.chunks import Chunk, MapBatches
from transforms.tables.shards import Target, read_shard, row_groups
from transforms.tables.table import Table
from transforms.tables.write import WriteTables
from transforms.training_data.rows import TrainerRows

RowGroup = tuple[int, int]  # the index of a curated shard, the number of a row group in it


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a split in a curated row group, counted among that split's rows alone."""

    split: str
    row_group: RowGroup
    start: int
    stop: int


def count_rows(curated: Table, column: str) -> dict[str, dict[RowGroup, int]]:
    """Count each split's rows in every curated row group, by the split column named."""
    counts: dict[str, dict[RowGroup, int]] = {split: {} for split in SPLITS}
    for shard in curated.shards:
        for _, group in row_groups(shard):
            for chunk in read_shard(shard, [column], group):
                for value in pc.value_counts(chunk.batch.column(column)).to_pylist():
                    if value["values"] is not None:
                        of_group = counts[value["values"]]
                        of_group[shard.index, group] = of_group.get((shard.index, group), 0) + value["counts"]
    return counts


def plan_shards(counts: dict[str, dict[RowGroup, int]], triples_per_shard: int) -> list[list[Piece]]:
    """Plan the pieces of every training shard, from the rows of each split in each row group.

    A split of n triples takes ⌈n / triples_per_shard⌉ shards whose sizes differ by at most one triple.
    """
    shards: list[list[Piece]] = []
    for split, of_group in counts.items():
        total = sum(of_group.values())
        count = -(-total // triples_per_shard)
        shards += [[] for _ in range(count - len(shards))]
        # groups A and B of 3 and 2 rows, at most 3 triples a shard → 2 shards, cut at rows [0, 2, 5] of the split
        # → shard 0: A [0, 2); shard 1: A [2, 3), B [0, 2)
        cuts = [total * index // max(count, 1) for index in range(count + 1)]
        index = first = 0  # the shard that takes the next row; the rows of the split before this group
        for row_group, rows in sorted(of_group.items()):
            start = 0
            while start < rows:
                stop = min(cuts[index + 1] - first, rows)
                shards[index].append(Piece(split, row_group, start, stop))
                index += first + stop == cuts[index + 1]
                start = stop
            first += rows
    return shards


@dataclass
class WriteTrainingShards(beam.PTransform):
    """Write one trainer's tables train, validation and test; shard k of each holds the pieces `plan[k]`."""

    curated: Table
    trainer_rows: TrainerRows
    plan: list[list[Piece]]
    directory: str
    about: dict
    skip: frozenset[int] = frozenset()

    @property
    def targets(self) -> dict[int, Target]:
        return {index: Target(f"shard-{index:05d}") for index in range(len(self.plan))}

    def expand(self, root: beam.Pipeline) -> beam.PCollection[str | None]:
        schemas = dict.fromkeys(SPLITS, self.trainer_rows.schema)
        return (
            root
            | "Plan" >> beam.Create([item for item in enumerate(self.plan) if item[0] not in self.skip])
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMapTuple(self._read).with_output_types(Chunk)
            | "Rows" >> MapBatches(self.trainer_rows.to_rows)
            | "Write" >> WriteTables(self.directory, schemas, by_split, self.targets, self.about)
        )

    def _read(self, index: int, pieces: list[Piece]) -> Iterator[Chunk]:
        first_row = 0
        for piece in pieces:
            for rows in self._rows_of(piece):
                yield Chunk(index, first_row, rows.num_rows, rows)
                first_row += rows.num_rows

    def _rows_of(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        # rows [2, 4) of a split with 3 rows in the first chunk of the row group and 3 in the second
        # → of the first chunk, before which there are 0, rows [2, 4), so its last; of the second, after 3, rows [0, 1)
        shard_index, group = piece.row_group
        shard = next(shard for shard in self.curated.shards if shard.index == shard_index)
        before = 0
        for chunk in read_shard(shard, None, group):
            of_split = chunk.batch.filter(pc.equal(chunk.batch.column(self.trainer_rows.column), piece.split))
            start, stop = max(piece.start - before, 0), max(piece.stop - before, 0)
            before += of_split.num_rows
            rows = of_split.slice(start, stop - start)
            if rows.num_rows:
                yield rows


def by_split(chunk: Chunk) -> dict[str, pa.RecordBatch]:
    """Part a chunk's rows by the table they go to."""
    return {split: chunk.batch.filter(pc.equal(chunk.batch.column("split"), split)) for split in SPLITS}
