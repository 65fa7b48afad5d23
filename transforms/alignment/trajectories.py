"""Trajectories: what each step proposed, decided and scored, row by row."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import TRAJECTORIES
from transforms.tables.chunks import Chunk
from transforms.tables.columns import with_columns
from transforms.tables.marks import kept


def record(
    batch: pa.RecordBatch,
    step: int,
    member: pa.Array,
    text: pa.Array,
    scores: pa.Array,
    candidate_scores: pa.Array,
    decision: pa.Array,
    reason: pa.Array,
) -> pa.RecordBatch:
    """Add the struct `step_<n>`: the member applied, the text it proposed with its scores, and all scores after it."""
    parts = {
        "member": member,
        "text": text,
        "scores": scores,
        "candidate_scores": candidate_scores,
        "decision": decision,
        "reason": reason,
    }
    return with_columns(batch, **{f"step_{step}": pc.make_struct(*parts.values(), field_names=list(parts))})


def start_record(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Step 0: the response as it came in, with its scores."""
    nothing = pa.nulls(batch.num_rows, pa.string())
    decision = pc.if_else(kept(batch), pa.scalar("as_given"), pa.scalar("failed"))
    batch = with_columns(batch, scores_before=batch.column("scores"))
    scores = batch.column("scores")
    return record(batch, 0, nothing, batch.column("response"), scores, scores, decision, nothing)


def sum_up(batch: pa.RecordBatch, rounds: int) -> pa.RecordBatch:
    """Sum up the steps as the row's `decision`, and name the last scores `scores_after`.

    A row with a rewrite that was kept is `rewritten`, even where a request for another one failed.
    """
    decisions = [pc.struct_field(batch.column(f"step_{step}"), "decision") for step in range(1, rounds + 1)]

    def any_step(decision: str) -> pa.BooleanArray:
        found = pa.array([False] * batch.num_rows, pa.bool_())
        for values in decisions:
            found = pc.or_(found, pc.equal(values, decision))
        return found

    decision = pc.case_when(
        pc.make_struct(
            any_step("rewritten"),
            pc.is_valid(batch.column("error")),
            any_step("refused"),
            any_step("unchanged"),
        ),
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

    names: of the shards' files, by index.
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
    """One row per row and step, by row then step."""
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
    names = [field.name for field in scores.type]
    columns = [pc.struct_field(scores, name).to_numpy(zero_copy_only=False).astype(np.float64) for name in names]
    values_NM = np.stack(columns, axis=1)
    known = np.isfinite(values_NM).any(axis=1)
    values_NM = values_NM[known]
    ends = np.cumsum(np.where(known, len(names), 0))
    starts = pa.array(np.append(0, ends).astype(np.int32), mask=np.append(~known, False))
    keys = pa.array(names).take(pa.array(np.tile(np.arange(len(names)), len(values_NM))))
    return pa.MapArray.from_arrays(starts, keys, pa.array(values_NM.ravel(), mask=np.isnan(values_NM.ravel())))
