"""Scores of inspectors, as columns of a batch and as a matrix. N rows, M members."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.alignment.members import Member
from transforms.engines.inspector import open_inspector, score_all
from transforms.tables import progress
from transforms.tables.chunks import Chunk
from transforms.tables.columns import with_columns
from transforms.tables.marks import kept


def score_matrix(batch: pa.RecordBatch, column: str, members: Sequence[Member]) -> np.ndarray:
    """Return every row's scores by every member's inspector: float64[N, M].

    A missing one is NaN.
    """
    scores = batch.column(column)
    columns = [pc.struct_field(scores, member.criterion) for member in members]
    return np.stack([values.to_numpy(zero_copy_only=False).astype(np.float64) for values in columns], axis=1)


def arrange_scores(batch: pa.RecordBatch, members: Sequence[Member]) -> pa.RecordBatch:
    """Put the fields of `scores` in the order of the members; a criterion without an inspector has null."""
    names = [criterion.name for criterion in batch.schema.field("scores").type]
    nothing = pa.nulls(batch.num_rows, pa.float64())
    columns = [
        pc.struct_field(batch.column("scores"), member.criterion)
        if member.inspector and member.criterion in names
        else nothing
        for member in members
    ]
    criteria = [member.criterion for member in members]
    return with_columns(batch, scores=pc.make_struct(*columns, field_names=criteria))


class _ScoreFn(beam.DoFn):
    """Score one text column with every inspector, as a struct; batches are formed within a chunk."""

    _loading = threading.Lock()  # of threads that start at once, the first loads an inspector and the others reuse it

    def __init__(self, inspectors: dict[str, str], column: str, into: str, step: str, bf16: bool):
        self.inspectors = inspectors
        self.bf16 = bf16
        self.column = column
        self.into = into
        self.step = step

    def setup(self) -> None:
        with self._loading:
            folders = {name: folder for name, folder in self.inspectors.items() if folder}
            self.opened = {name: open_inspector(folder, self.bf16) for name, folder in folders.items()}

    def process(self, chunk: Chunk) -> list[Chunk]:
        batch = chunk.batch
        rows = np.flatnonzero(pc.and_(kept(batch), pc.is_valid(batch.column(self.column))))
        questions, answers = (batch.column(name).take(pa.array(rows)).to_pylist() for name in ("question", self.column))
        scores_of_rows, columns = score_all(self.opened, questions, answers), []
        for name in self.inspectors:
            scores = np.full(batch.num_rows, np.nan)
            if name in scores_of_rows:
                scores[rows] = scores_of_rows[name]
            columns.append(pa.array(scores, mask=np.isnan(scores)))
        progress.add(self.step, done=batch.num_rows)
        return [
            chunk.with_batch(
                with_columns(batch, **{self.into: pc.make_struct(*columns, field_names=list(self.inspectors))})
            )
        ]


@dataclass
class Score(beam.PTransform):
    """Add the struct `into`: the score of each inspector ({criterion: folder}) for the text in `column`.

    A criterion whose folder is empty has no inspector, and null for a score.

    step: names the work in transforms.tables.progress. bf16: score in bfloat16.
    """

    inspectors: dict[str, str]
    column: str
    into: str
    step: str
    bf16: bool = False

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        score = _ScoreFn(self.inspectors, self.column, self.into, self.step, self.bf16)
        return chunks | "Inspect" >> beam.ParDo(score).with_output_types(Chunk)
