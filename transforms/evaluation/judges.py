"""Judges: models that say of two answers to a question how much better the second is, row by row.

Shapes: N rows.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.engines.inspector import open_inspector
from transforms.engines.pair_ranker import open_pair_ranker
from transforms.evaluation.win_rates import margins
from transforms.tables import progress
from transforms.tables.chunks import Chunk
from transforms.tables.columns import is_text

JUDGED = ("id", "question", "response")  # the columns that a judge's rows must have, beside the answer
DECISION, FAILED = "decision", "failed"  # the column in which an alignment says what became of a row, and its word
COLUMNS = {"inspector": ("margin", "before", "after"), "pair-ranker": ("margin",)}  # of a judgement, by kind of judge


@dataclass(frozen=True)
class Judge:
    """A model that compares two answers: an inspector by their scores, a pair-ranker directly."""

    name: str
    kind: str  # inspector | pair-ranker
    folder: str

    def compare(self, questions: list[str], before: list[str], after: list[str]) -> dict[str, np.ndarray]:
        """Return `margin` [N], positive where `after` is better, and an inspector's scores `before` and `after`."""
        if self.kind == "pair-ranker":
            return {"margin": open_pair_ranker(self.folder).compare(questions, after, before)}
        scores = open_inspector(self.folder).score(questions * 2, before + after)
        scores_before, scores_after = scores[: len(before)], scores[len(before) :]
        is_unchanged = np.array([old == new for old, new in zip(before, after, strict=True)], dtype=bool)
        margin = margins(scores_before, scores_after, is_unchanged)
        return {"margin": margin, "before": scores_before, "after": scores_after}

    def column(self, name: str) -> str:
        """Return what one of this judge's COLUMNS is called among those of all judges."""
        return f"{self.name}/{name}"


@dataclass(frozen=True)
class JudgeBatch:
    """Turn a chunk of aligned rows into judgements: every judge's COLUMNS, a row for each row.

    They are null where the question or one of the two texts is missing. Beside them stand the id, whether the row
    failed (what aligned it says so), and the columns `by` as text.

    answer: the column that is judged against `response`.
    """

    judges: tuple[Judge, ...]
    answer: str = "aligned"
    by: tuple[str, ...] = ()

    def reads(self, schema: pa.Schema) -> list[str]:
        """Return the columns that it needs of a table, each once."""
        decision = [DECISION] if has_decisions(schema) else []
        return list(dict.fromkeys([*JUDGED, self.answer, *decision, *self.by]))

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        batch = chunk.batch
        texts = ("question", "response", self.answer)
        is_judged = np.logical_and.reduce([batch.column(name).is_valid().to_numpy(False) for name in texts])
        rows = batch.filter(pa.array(is_judged))
        columns = {"id": batch.column("id").cast(pa.string()), "failed": failed(batch)}
        columns |= {category_column(name): as_text(batch.column(name)) for name in self.by}
        for judge in self.judges:
            verdict = judge.compare(*(rows.column(name).to_pylist() for name in texts))
            for name, values in verdict.items():
                values_of_rows = np.zeros(batch.num_rows)
                values_of_rows[is_judged] = values
                columns[judge.column(name)] = pa.array(values_of_rows, mask=~is_judged)
        progress.add("judge", done=chunk.rows)
        return {"judgements": pa.RecordBatch.from_pydict(columns)}

    def schema(self) -> pa.Schema:
        texts = ["id", *map(category_column, self.by)]
        judged = [judge.column(name) for judge in self.judges for name in COLUMNS[judge.kind]]
        fields = [(texts[0], pa.string()), ("failed", pa.bool_()), *((name, pa.string()) for name in texts[1:])]
        return pa.schema([*fields, *((name, pa.float64()) for name in judged)])


def category_column(name: str) -> str:
    """Return what a column of the table is called among the judgements, where no column of theirs can be so called."""
    return f"by/{name}"


def is_category(kind: pa.DataType) -> bool:
    """Return whether rows can be told apart by a column of this type: a plain value, no list and no bytes."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def as_text(column: pa.Array) -> pa.Array:
    """Return a column's values as text, "" where there is none."""
    return column.cast(pa.string()).fill_null("")


def has_decisions(schema: pa.Schema) -> bool:
    return DECISION in schema.names and is_text(schema.field(DECISION).type)


def failed(batch: pa.RecordBatch) -> pa.Array:
    """Return which rows stayed as they were because no aligner answered; none where no decision is told."""
    if not has_decisions(batch.schema):
        return pa.array(np.zeros(batch.num_rows, dtype=bool))
    return pc.equal(as_text(batch.column(DECISION)), FAILED)
