"""Trajectories: what each step proposed, decided and scored, row by row. N rows, M members."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import TRAJECTORIES
from transforms.tables.chunks import Chunk
from transforms.tables.columns import with_columns
from transforms.tables.marks import kept


def add_step(
    batch: pa.RecordBatch,
    step: int,
    *,
    member: pa.Array,
    text: pa.Array,
    candidate_scores: pa.Array,
    decision: pa.Array,
    reason: pa.Array,
) -> pa.RecordBatch:
    """Add the struct `step_<n>`.

    It has the member applied, the text it proposed with its scores, and all scores after it.
    """
    parts = {
        "member": member,
        "text": text,
        "scores": batch.column("scores"),
        "candidate_scores": candidate_scores,
        "decision": decision,
        "reason": reason,
    }
    return with_columns(batch, **{f"step_{step}": pc.make_struct(*parts.values(), field_names=list(parts))})


def start_trajectory(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Add step 0: the response as it came in, with its scores."""
    scores, nothing = batch.column("scores"), pa.nulls(batch.num_rows, pa.string())
    return add_step(
        with_columns(batch, scores_before=scores),
        0,
        member=nothing,
        text=batch.column("response"),
        candidate_scores=scores,
        decision=pc.if_else(kept(batch), pa.scalar("as_given"), pa.scalar("failed")),
        reason=nothing,
    )


def sum_up(batch: pa.RecordBatch, rounds: int) -> pa.RecordBatch:
    """Sum up the steps as the row's `decision`, and name the last scores `scores_after`.

    A row with a rewrite that was kept is `rewritten`, even where a request for another one failed.
    """
    decisions = [pc.struct_field(batch.column(f"step_{step}"), "decision") for step in range(1, rounds + 1)]

    def has(decision: str) -> pa.BooleanArray:
        return reduce(pc.or_, (pc.equal(values, decision) for values in decisions))

    decision = pc.case_when(
        pc.make_struct(has("rewritten"), pc.is_valid(batch.column("error")), has("refused"), has("unchanged")),
        "rewritten",
        "failed",
        "refused",
        "unchanged",
        "above_threshold",
    )
    batch = with_columns(batch, decision=decision)
    return with_columns(batch, scores_after=batch.column("scores"))


@dataclass(frozen=True)
class SplitAligned:
    """Part a finished chunk into `aligned` (every row, in order), `trajectories` and `rejects`.

    rounds: turns that a row has at most. names: of the shards' files, by index.
    """

    rounds: int
    names: Mapping[int, str]

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        batch = chunk.batch
        failed = batch.filter(pc.is_valid(batch.column("error")))
        return {
            "aligned": batch,
            "trajectories": trajectories(chunk, self.rounds, self.names[chunk.shard]),
            "rejects": failed,
        }


def trajectories(chunk: Chunk, rounds: int, shard: str) -> pa.RecordBatch:
    """Return a row for every row and step, by row, then step."""
    batch, parts = chunk.batch, []
    rows = pa.array(range(chunk.first_row, chunk.first_row + batch.num_rows), pa.int64())
    for step in range(rounds + 1):
        values = batch.column(f"step_{step}")
        columns = {
            "id": batch.column("id").cast(pa.string()),
            "shard": pa.array([shard] * batch.num_rows),
            "row": rows,
            "step": pa.array([step] * batch.num_rows, pa.int32()),
            "member": pc.struct_field(values, "member"),
            "text": pc.struct_field(values, "text"),
            "scores": _as_map(pc.struct_field(values, "scores")),
            "candidate_scores": _as_map(pc.struct_field(values, "candidate_scores")),
            "decision": pc.struct_field(values, "decision"),
            "reason": pc.struct_field(values, "reason"),
        }
        parts.append(pa.RecordBatch.from_arrays(list(columns.values()), schema=TRAJECTORIES))
    table = pa.Table.from_batches(parts, TRAJECTORIES).sort_by([("row", "ascending"), ("step", "ascending")])
    return table.combine_chunks().to_batches()[0] if table.num_rows else parts[0]


def _as_map(scores: pa.StructArray) -> pa.MapArray:
    """Return each row's scores by criterion, null where no inspector scored it."""
    # rows {a .2, b null}, {a null, b null}, {a .4, b .5}: is_scored [1, 0, 1], starts [0, null, 2, 4], keys a b a b
    # and values [.2, null, .4, .5]
    criteria = [field.name for field in scores.type]
    columns = [pc.struct_field(scores, name).to_numpy(zero_copy_only=False).astype(np.float64) for name in criteria]
    values_NM = np.stack(columns, axis=1)
    is_scored = np.isfinite(values_NM).any(axis=1)
    values = values_NM[is_scored].ravel()
    ends = np.cumsum(np.where(is_scored, len(criteria), 0))
    starts = pa.array(np.append(0, ends).astype(np.int32), mask=np.append(~is_scored, False))
    keys = pa.array(criteria).take(pa.array(np.tile(np.arange(len(criteria)), int(is_scored.sum()))))
    return pa.MapArray.from_arrays(starts, keys, pa.array(values, mask=np.isnan(values)))
