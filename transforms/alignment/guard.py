"""The guard: candidates are read from completions, and kept or refused by their scores. N rows, M members."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.squads import SquadRules
from transforms.alignment.members import Member, criteria_of
from transforms.alignment.scoring import score_matrix
from transforms.alignment.trajectories import add_step
from transforms.synthesis.triples import parse_rewrite
from transforms.tables.columns import with_columns
from transforms.training_data.aligner_format import read_correction


def propose(batch: pa.RecordBatch, members: Sequence[Member]) -> pa.RecordBatch:
    """Read the members' rewrites into `candidate`, null where there is none.

    `reason` says what is wrong with it.
    """
    candidates, reasons = (np.full(batch.num_rows, None, object) for _ in range(2))
    for member in members:
        is_theirs = pc.equal(batch.column("member"), member.criterion)
        rows = np.flatnonzero(pc.fill_null(pc.and_(is_theirs, pc.is_valid(batch.column("completion"))), False))
        if not len(rows):
            continue
        answered = batch.take(pa.array(rows))
        if member.pack is not None:
            parsed = parse_rewrite(answered)
            candidates[rows] = parsed.column("correction").to_pylist()
            reasons[rows] = parsed.column("error").to_pylist()
        else:
            candidates[rows] = [read_correction(text) for text in answered.column("completion").to_pylist()]
            ends = answered.column("finish_reason").to_pylist()
            reasons[rows] = ["truncated" if end == "length" else None for end in ends]
        for row in rows:
            if not (candidates[row] or "").strip():
                candidates[row], reasons[row] = None, reasons[row] or "empty_rewrite"
    return with_columns(batch, candidate=pa.array(candidates, pa.string()), reason=pa.array(reasons, pa.string()))


def apply_guard(batch: pa.RecordBatch, members: Sequence[Member], rules: SquadRules, step: int) -> pa.RecordBatch:
    """Keep or refuse each candidate, and write the step down.

    A refused row keeps its text, and the member is noted as tried on it; a rewritten one has been tried by nobody.
    """
    turns_N = pc.fill_null(pc.index_in(batch.column("member"), pa.array(criteria_of(members))), 0).to_numpy()
    is_same = is_same_text(batch.column("aligned").cast(pa.string()), batch.column("candidate"))
    refusals = refuse(batch, members, rules, turns_N, is_same)
    decisions = decide_step(batch, refusals, is_same)
    is_rewritten = pc.equal(decisions, "rewritten")
    is_asked = np.asarray(pc.is_valid(batch.column("prompt")), np.bool_)
    bits_N = np.where(is_asked, np.uint64(1) << turns_N.astype(np.uint64), np.uint64(0))
    tried = pa.array(batch.column("tried").to_numpy() | bits_N)
    batch = with_columns(
        batch,
        aligned=pc.if_else(is_rewritten, batch.column("candidate"), batch.column("aligned")),
        scores=pc.if_else(is_rewritten, batch.column("candidate_scores"), batch.column("scores")),
        tried=pc.if_else(is_rewritten, pa.scalar(0, pa.uint64()), tried),
    )
    return add_step(
        batch,
        step,
        member=batch.column("member"),
        text=batch.column("candidate"),
        candidate_scores=batch.column("candidate_scores"),
        decision=decisions,
        reason=pc.coalesce(refusals, batch.column("reason")),
    )


def refuse(
    batch: pa.RecordBatch, members: Sequence[Member], rules: SquadRules, turns_N: np.ndarray, is_same: pa.BooleanArray
) -> pa.StringArray:
    """Return why each candidate is refused, null where it may stay.

    One that was cut off is refused, guard or not, unless all rewrites have one length.
    """
    reasons = pa.nulls(batch.num_rows, pa.string())
    if rules.has_guard:
        before_NM, after_NM = (score_matrix(batch, name, members) for name in ("scores", "candidate_scores"))
        is_new = pc.and_(pc.is_valid(batch.column("candidate")), pc.invert(is_same))
        reasons = pc.if_else(is_new, guard(before_NM, after_NM, turns_N, rules, criteria_of(members)), reasons)
    if rules.has_fixed_length:
        return reasons
    is_cut_off = pc.and_(pc.is_valid(batch.column("candidate")), pc.equal(batch.column("reason"), "truncated"))
    return pc.if_else(pc.fill_null(is_cut_off, False), "truncated", reasons)


def guard(
    before_NM: np.ndarray, after_NM: np.ndarray, turns_N: np.ndarray, rules: SquadRules, criteria: Sequence[str]
) -> pa.StringArray:
    """Return why the guard refuses each rewrite, null where it passes.

    turns_N: the member that rewrote the row; its score is the rewrite's own. What cannot be scored does not pass.
    """
    # before [.2, .9], after [.7, .3], turn 0: change [.5, -.6], own .5, harmed 1 -> "harmed:" and criterion 1
    rows = np.arange(len(turns_N))
    change_NM = np.nan_to_num(after_NM - before_NM, nan=-np.inf)
    own_N = change_NM[rows, turns_N]
    harmed_N = change_NM.argmin(axis=1)  # never the own score's: where that fell, `scored_lower` comes first
    is_lower = own_N < 0
    is_too_little = (own_N < rules.guard_margin) | (own_N == 0)
    is_harmed = change_NM[rows, harmed_N] < -rules.guard_max_loss
    harms = pa.array([f"harmed:{criterion}" for criterion in criteria]).take(pa.array(harmed_N))
    masks = pc.make_struct(*map(pa.array, (is_lower, is_too_little, is_harmed)))
    return pc.case_when(masks, "scored_lower", "gained_too_little", harms)


def decide_step(batch: pa.RecordBatch, refusals: pa.StringArray, is_same: pa.BooleanArray) -> pa.StringArray:
    """Return what became of each row at this step.

    | decision | the row |
    | --- | --- |
    | `not_asked` | has no turn: its scores suffice, or it failed before |
    | `failed` | was asked about, and its request failed |
    | `unchanged` | has a candidate that says what its text says, but for space around it |
    | `rewritten` | has another candidate, which becomes its text |
    | `refused` | has none that may stay: by the guard, cut off, or no text at all; `reason` says why |
    """
    is_accepted = pc.and_(pc.is_valid(batch.column("candidate")), pc.is_null(refusals))
    masks = pc.make_struct(
        pc.is_null(batch.column("prompt")),
        pc.is_valid(batch.column("error")),
        pc.and_(is_accepted, is_same),
        is_accepted,
    )
    return pc.case_when(masks, "not_asked", "failed", "unchanged", "rewritten", "refused")


def is_same_text(text: pa.StringArray, rewrite: pa.StringArray) -> pa.BooleanArray:
    """Return where two texts differ at most by space around them; false where one is missing."""
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(text), pc.utf8_trim_whitespace(rewrite)), False)
