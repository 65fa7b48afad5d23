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

JUDGED = ("id", "question", "response", "aligned")  # the columns that a judge's rows must have
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
    """Turn a chunk of JUDGED columns into judgements: every judge's COLUMNS, for the rows with all three texts."""

    judges: tuple[Judge, ...]

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        batch = chunk.batch
        has_texts = pc.and_(pc.is_valid(batch.column("response")), pc.is_valid(batch.column("aligned")))
        rows = batch.filter(pc.and_(has_texts, pc.is_valid(batch.column("question"))))
        texts = [rows.column(name).to_pylist() for name in ("question", "response", "aligned")]
        columns = {"id": rows.column("id").cast(pa.string())}
        for judge in self.judges:
            columns |= {judge.column(name): pa.array(values) for name, values in judge.compare(*texts).items()}
        progress.add("judge", done=chunk.rows)
        return {"judgements": pa.RecordBatch.from_pydict(columns)}

    def schema(self) -> pa.Schema:
        judged = [judge.column(name) for judge in self.judges for name in COLUMNS[judge.kind]]
        return pa.schema([("id", pa.string()), *((name, pa.float64()) for name in judged)])
