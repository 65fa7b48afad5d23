"""An aligned corpus in numbers and in samples, in one pass over its batches: counts are kept, and what is shown.

Which rows become samples depends on their ids alone, so that a report made again shows the same rows.
"""

import heapq
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.distribution import Distribution
from transforms.tables.identity import content_id

SHOWN_CHARACTERS = 4000
_TEXTS = ("question", "response", "aligned")
_SCORES = ("scores_before", "scores_after")
_LABELS = ("id", "question_type", "topic", "decision")

T = TypeVar("T", bound=Hashable)
Scores = dict[str, float | None]


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
class ShownStep:
    """One step of a row's trajectory: what was proposed (`text`, `candidate`), and the `scores` of what was kept."""

    step: int
    member: str | None
    text: Shown | None
    scores: Scores
    candidate: Scores
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
    before: Scores
    after: Scores
    unchanged: bool
    steps: list[ShownStep] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """Return the sum of the score changes over the criteria that were scored both times."""
        pairs = [(self.before.get(name), after) for name, after in self.after.items()]
        return sum((after - before for before, after in pairs if before is not None and after is not None), 0.0)


def sample(row: dict[str, Any]) -> Sample:
    """Make a row of an aligned table a sample.

    Columns that its corpus does not have are null.
    """
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


def rank(row_id: str) -> int:
    """Return a row's position in the order in which rows become samples."""
    return int(content_id("report sample", row_id)[:15], 16)


def take_turns(queues: Iterable[Sequence[T]], most: int) -> list[T]:
    """Return the first of every queue, then the second of every queue, and so on.

    There are `most` entries, each once.
    """
    entries = (entry for turn in zip_longest(*queues) for entry in turn if entry is not None)
    return list(islice(dict.fromkeys(entries), most))


@dataclass
class Corpus:
    """Counts, scores and lengths of an aligned table; `samples` in the order of their ids' hashes."""

    rows: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    changed: int = 0
    before: dict[str, Distribution] = field(default_factory=dict)
    after: dict[str, Distribution] = field(default_factory=dict)
    response_characters: Distribution = field(default_factory=lambda: Distribution(0))
    aligned_characters: Distribution = field(default_factory=lambda: Distribution(0))
    samples: list[Sample] = field(default_factory=list)


def columns_of(schema: pa.Schema) -> list[str]:
    """Return the columns of an aligned table that a report reads."""
    return [name for name in (*_LABELS, *_TEXTS, *_SCORES) if name in schema.names]


def summarise(batches: Iterable[pa.RecordBatch], most_samples: int, queues: Sequence[Sequence[str]] = ()) -> Corpus:
    """Summarise an aligned table in one pass.

    The samples are shared out as evenly as their rows allow over the decisions, and over `queues`, each of them ids by
    rank that have something else in common.
    """
    corpus = Corpus()
    chosen = _Chosen(most_samples, frozenset(take_turns(queues, most_samples)))
    for batch in batches:
        for column, by_criterion in zip(_SCORES, (corpus.before, corpus.after), strict=True):
            for index, criterion in enumerate(batch.schema.field(column).type):
                scores = pc.struct_field(batch.column(column), [index]).to_numpy(zero_copy_only=False)
                by_criterion.setdefault(criterion.name, Distribution()).add(scores)
        for column, lengths in (("response", corpus.response_characters), ("aligned", corpus.aligned_characters)):
            lengths.add(pc.fill_null(pc.utf8_length(batch.column(column)), 0).to_numpy(zero_copy_only=False))
        corpus.decisions.update(batch.column("decision").to_pylist())
        corpus.changed += pc.sum(pc.not_equal(batch.column("response"), batch.column("aligned"))).as_py() or 0
        chosen.look_at(batch, corpus.rows)
        corpus.rows += batch.num_rows
    corpus.samples = chosen.samples(queues)
    return corpus


class _Chosen:
    """The rows that may become samples: of each decision those of the lowest rank, and the first of each wanted id."""

    def __init__(self, most: int, wanted: frozenset[str]):
        self.most = most
        self.wanted = wanted
        self.by_decision: dict[str, list[tuple[int, int, Sample]]] = {}
        self.by_id: dict[str, tuple[int, int, Sample]] = {}

    def look_at(self, batch: pa.RecordBatch, first_row: int) -> None:
        rows = zip(batch.column("id").to_pylist(), batch.column("decision").to_pylist(), strict=True)
        for index, (value, decision) in enumerate(rows):
            row_id = str(value)
            # A heap has the smallest on top, and the highest rank is the one to give up: hence negated.
            heap, key = self.by_decision.setdefault(decision, []), (-rank(row_id), -(first_row + index))
            is_among_lowest = len(heap) < self.most or bool(heap and key > heap[0][:2])
            is_first_wanted = row_id in self.wanted and row_id not in self.by_id
            if not (is_among_lowest or is_first_wanted):
                continue
            entry = (*key, sample(batch.slice(index, 1).to_pylist()[0]))
            if is_among_lowest:
                (heapq.heappush if len(heap) < self.most else heapq.heapreplace)(heap, entry)
            if is_first_wanted:
                self.by_id[row_id] = entry

    def samples(self, queues: Sequence[Sequence[str]]) -> list[Sample]:
        entries = {entry[:2]: entry[2] for heap in (*self.by_decision.values(), self.by_id.values()) for entry in heap}
        of_decisions = [
            sorted((entry[:2] for entry in self.by_decision[decision]), reverse=True)
            for decision in sorted(self.by_decision, key=str)
        ]
        of_queues = [[self.by_id[row_id][:2] for row_id in queue if row_id in self.by_id] for queue in queues]
        return [entries[key] for key in sorted(take_turns([*of_decisions, *of_queues], self.most), reverse=True)]
