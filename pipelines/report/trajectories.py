"""Trajectories in numbers, and those of samples: two passes over their table. The first reads no text."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.corpus import Sample, ShownStep, rank, show_text
from pipelines.report.distribution import Distribution

FOLLOWED = ["id", "step", "member", "decision", "reason", "scores"]


class Turn(NamedTuple):
    """What happened to a row at a step; `member` is null where no aligner was asked."""

    step: int
    member: str | None
    decision: str | None
    reason: str | None


@dataclass
class Trajectories:
    """`scores[step][criterion]` over all rows; `turns`, how many rows each happened to; `queues`: of every (member,
    decision, reason) the ids of the lowest rank, for summarise."""

    scores: dict[int, dict[str, Distribution]] = field(default_factory=dict)
    turns: Counter[Turn] = field(default_factory=Counter)
    queues: list[list[str]] = field(default_factory=list)

    @property
    def criteria(self) -> list[str]:
        return list(dict.fromkeys(name for by_criterion in self.scores.values() for name in by_criterion))

    def members(self, step: int) -> list[str]:
        """Return the aligners that were asked at a step, in the order of the criteria."""
        asked = {turn.member for turn in self.turns if turn.step == step and turn.member is not None}
        return [name for name in self.criteria if name in asked] + sorted(asked - set(self.criteria))


def follow(batches: Iterable[pa.RecordBatch], most_samples: int) -> Trajectories:
    """Summarise a trajectories table in one pass over its columns FOLLOWED."""
    trajectories = Trajectories()
    lowest: dict[tuple[Any, ...], list[tuple[int, str]]] = {}
    for batch in batches:
        step_of_row = batch.column("step").to_numpy()
        criteria = pc.unique(batch.column("scores").keys).to_pylist()
        columns = {name: _score(batch.column("scores"), name) for name in criteria}
        for step in np.unique(step_of_row).tolist():
            for criterion, column in columns.items():
                scores = column[step_of_row == step]
                if np.isfinite(scores).any():
                    trajectories.scores.setdefault(step, {}).setdefault(criterion, Distribution()).add(scores)
        turns = pl.DataFrame(batch.select(["id", *Turn._fields]))
        for *turn, rows in turns.group_by(Turn._fields).len().iter_rows():
            trajectories.turns[Turn(*turn)] += rows
        asked = turns.filter(pl.col("member").is_not_null())
        for kind, rows in asked.partition_by(Turn._fields[1:], as_dict=True).items():
            entries = {(rank(row_id), row_id) for row_id in rows["id"].to_list()}
            lowest[kind] = heapq.nsmallest(most_samples, entries.union(lowest.get(kind, ())))
    trajectories.scores = dict(sorted(trajectories.scores.items()))
    trajectories.queues = [[row_id for _, row_id in lowest[kind]] for kind in sorted(lowest, key=str)]
    return trajectories


def give_steps(batches: Iterable[pa.RecordBatch], samples: Sequence[Sample]) -> None:
    """Give samples their steps, from the batches of a trajectories table."""
    wanted = {entry.id: entry for entry in reversed(samples)}  # the first of those that share an id
    wanted_ids = pa.array(wanted, pa.string())
    row_of: dict[str, tuple[int, int]] = {}
    for batch in batches:
        for row in batch.filter(pc.is_in(batch.column("id").cast(pa.string()), wanted_ids)).to_pylist():
            # Rows of a corpus may share an id: the steps of the first of them only.
            position = (row["shard"], row["row"])
            if row_of.setdefault(row["id"], position) == position:
                wanted[row["id"]].steps.append(_step(row))
    for entry in wanted.values():
        entry.steps.sort(key=lambda step: step.step)


def _score(maps: pa.MapArray, criterion: str) -> np.ndarray:
    return pc.map_lookup(maps, pa.scalar(criterion), "first").to_numpy(zero_copy_only=False)


def _step(row: dict[str, Any]) -> ShownStep:
    return ShownStep(
        row["step"],
        row["member"],
        show_text(row["text"]),
        dict(row["scores"] or ()),
        dict(row.get("candidate_scores") or ()),
        row["decision"],
        row["reason"],
    )
