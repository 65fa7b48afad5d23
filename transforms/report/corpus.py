"""An aligned corpus in numbers and in samples, in one pass over its batches: only lengths and scores are kept.

Which rows become samples depends on their ids alone, so that a report made again shows the same rows.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.identity import content_id

DECISIONS = ("rewritten", "unchanged", "above_threshold", "refused", "failed")
SHOWN_CHARACTERS = 4000
_TEXTS = ("question", "response", "aligned")
_SCORES = ("scores_before", "scores_after")
_LABELS = ("id", "question_type", "topic", "decision")


class Shown(NamedTuple):
    """A text as it is shown: its beginning, and how many characters the whole has."""

    text: str
    characters: int

    @property
    def cut(self) -> bool:
        return len(self.text) < self.characters


def show_text(text: str | None, characters: int = SHOWN_CHARACTERS) -> Shown | None:
    return None if text is None else Shown(text[:characters], len(text))


@dataclass(frozen=True)
class Step:
    """One step of a row's trajectory."""

    step: int
    member: str | None
    text: Shown | None
    scores: dict[str, float | None]
    decision: str | None
    reason: str | None


@dataclass(frozen=True)
class Sample:
    """One row of the corpus, its texts cut to what is shown."""

    id: str
    question: Shown | None
    question_type: str | None
    topic: str | None
    response: Shown | None
    aligned: Shown | None
    decision: str
    before: dict[str, float | None]
    after: dict[str, float | None]
    unchanged: bool
    steps: list[Step] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """The sum of the score changes over the criteria that were scored both times."""
        pairs = [(self.before.get(name), after) for name, after in self.after.items()]
        return sum((after - before for before, after in pairs if before is not None and after is not None), 0.0)


def sample(row: dict[str, Any]) -> Sample:
    """A row of an aligned table as a sample; columns that its corpus does not have are null."""
    return Sample(
        id=str(row["id"]),
        question=show_text(row["question"]),
        question_type=row.get("question_type"),
        topic=row.get("topic"),
        response=show_text(row["response"]),
        aligned=show_text(row["aligned"]),
        decision=row["decision"],
        before=row["scores_before"] or {},
        after=row["scores_after"] or {},
        unchanged=row["response"] == row["aligned"],
    )


@dataclass
class Corpus:
    """Counts, scores and lengths of an aligned table; `samples` in the order of their ids' hashes."""

    rows: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    changed: int = 0
    before: dict[str, np.ndarray] = field(default_factory=dict)
    after: dict[str, np.ndarray] = field(default_factory=dict)
    response_characters: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    aligned_characters: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    samples: list[Sample] = field(default_factory=list)


def columns_of(schema: pa.Schema) -> list[str]:
    """The columns of an aligned table that a report reads."""
    return [name for name in (*_LABELS, *_TEXTS, *_SCORES) if name in schema.names]


def summarise(batches: Iterable[pa.RecordBatch], most_samples: int) -> Corpus:
    """One pass over an aligned table. The samples are shared out over the decisions as evenly as their rows allow."""
    corpus = Corpus()
    scores: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in _SCORES}
    lengths: dict[str, list[np.ndarray]] = {"response": [], "aligned": []}
    smallest: dict[str, list[tuple[int, int, Sample]]] = {}
    for batch in batches:
        for column, by_criterion in scores.items():
            for index, criterion in enumerate(batch.schema.field(column).type):
                values = pc.struct_field(batch.column(column), [index])
                by_criterion.setdefault(criterion.name, []).append(values.to_numpy(zero_copy_only=False))
        for column, arrays in lengths.items():
            characters = pc.fill_null(pc.utf8_length(batch.column(column)), 0)
            arrays.append(characters.to_numpy(zero_copy_only=False))
        corpus.decisions.update(batch.column("decision").to_pylist())
        corpus.changed += pc.sum(pc.not_equal(batch.column("response"), batch.column("aligned"))).as_py() or 0
        _keep_smallest(smallest, batch, corpus.rows, most_samples)
        corpus.rows += batch.num_rows
    corpus.before, corpus.after = (
        {name: np.concatenate(parts) for name, parts in scores[side].items()} for side in _SCORES
    )
    if corpus.rows:
        corpus.response_characters = np.concatenate(lengths["response"])
        corpus.aligned_characters = np.concatenate(lengths["aligned"])
    corpus.samples = _share_out(smallest, most_samples)
    return corpus


def _keep_smallest(
    smallest: dict[str, list[tuple[int, int, Sample]]], batch: pa.RecordBatch, first_row: int, most: int
) -> None:
    """Keep of each decision the `most` rows whose ids hash lowest (a heap with the highest on top, hence negated)."""
    rows = zip(batch.column("id").to_pylist(), batch.column("decision").to_pylist(), strict=True)
    for index, (row_id, decision) in enumerate(rows):
        heap = smallest.setdefault(decision, [])
        rank = -int(content_id("report sample", str(row_id))[:15], 16)
        if len(heap) < most or (heap and rank > heap[0][0]):
            entry = (rank, -(first_row + index), sample(batch.slice(index, 1).to_pylist()[0]))
            (heapq.heappush if len(heap) < most else heapq.heapreplace)(heap, entry)


def _share_out(smallest: dict[str, list[tuple[int, int, Sample]]], most: int) -> list[Sample]:
    chosen: list[tuple[int, int, Sample]] = []
    for filled, heap in enumerate(sorted(smallest.values(), key=len)):
        share = (most - len(chosen)) // (len(smallest) - filled)
        chosen.extend(sorted(heap, reverse=True)[:share])
    return [entry[2] for entry in sorted(chosen, key=lambda entry: entry[:2], reverse=True)]


@dataclass
class Trajectories:
    """Scores per step: `scores[step][criterion]`, and the one criterion whose aligner made the step, if it was one."""

    scores: dict[int, dict[str, np.ndarray]]
    members: dict[int, str | None]


def follow(batches: Iterable[pa.RecordBatch], samples: Iterable[Sample]) -> Trajectories:
    """One pass over a trajectories table: the scores of every step; each sample is given its own steps."""
    scores: dict[int, dict[str, list[np.ndarray]]] = {}
    members: dict[int, set[str | None]] = {}
    wanted = {entry.id: entry for entry in samples}
    wanted_ids = pa.array(wanted, pa.string())
    place_of: dict[str, tuple[int, int]] = {}
    for batch in batches:
        step_of_row = batch.column("step").to_numpy()
        criteria = pc.unique(batch.column("scores").keys).to_pylist()
        columns = {name: _score(batch.column("scores"), name) for name in criteria}
        for step in np.unique(step_of_row).tolist():
            rows = step_of_row == step
            members.setdefault(step, set()).update(pc.unique(batch.column("member").filter(pa.array(rows))).to_pylist())
            for criterion, column in columns.items():
                values = column[rows]
                scores.setdefault(step, {}).setdefault(criterion, []).append(values[~np.isnan(values)])
        for row in batch.filter(pc.is_in(batch.column("id").cast(pa.string()), wanted_ids)).to_pylist():
            # Rows of a corpus may share an id: the steps of the first of them only.
            place = (row["shard"], row["row"])
            if place_of.setdefault(row["id"], place) == place:
                wanted[row["id"]].steps.append(_step(row))
    for entry in wanted.values():
        entry.steps.sort(key=lambda step: step.step)
    arrays = {step: {name: np.concatenate(parts) for name, parts in scores[step].items()} for step in sorted(scores)}
    return Trajectories(arrays, {step: names.pop() if len(names) == 1 else None for step, names in members.items()})


def _score(maps: pa.MapArray, criterion: str) -> np.ndarray:
    return pc.map_lookup(maps, pa.scalar(criterion), "first").to_numpy(zero_copy_only=False)


def _step(row: dict[str, Any]) -> Step:
    return Step(
        row["step"], row["member"], show_text(row["text"]), dict(row["scores"] or ()), row["decision"], row["reason"]
    )
