"""The guard: candidates are read from completions, and kept or refused by their scores."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.squads import SquadRules
from transforms.alignment.members import Member
from transforms.alignment.scoring import score_matrix
from transforms.alignment.trajectories import record
from transforms.synthesis.triples import parse_rewrite
from transforms.tables.columns import with_columns
from transforms.training_data.aligner_format import read_correction


def propose(batch: pa.RecordBatch, members: Sequence[Member]) -> pa.RecordBatch:
    """Read the members' rewrites into `candidate`, null where there is none; `reason` says what is wrong with it."""
    candidates, reasons = (np.full(batch.num_rows, None, object) for _ in range(2))
    for member in members:
        asked = pc.and_(pc.equal(batch.column("member"), member.criterion), pc.is_valid(batch.column("completion")))
        rows = np.flatnonzero(pc.fill_null(asked, False))
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

    A candidate that was cut off is refused; with the guard also one whose own score does not rise as the rules
    demand, or that lowers another score too far. A row whose generation failed keeps its text.
    """
    rows = np.arange(batch.num_rows)
    before_NM, after_NM = (score_matrix(batch, name, members) for name in ("scores", "candidate_scores"))
    names = [member.criterion for member in members]
    turns = pc.fill_null(pc.index_in(batch.column("member"), pa.array(names)), 0).to_numpy()
    candidate, text = batch.column("candidate"), batch.column("aligned")
    proposed = np.asarray(pc.is_valid(candidate), np.bool_)
    trimmed = (pc.utf8_trim_whitespace(texts) for texts in (candidate, text.cast(pa.string())))
    same = np.asarray(pc.fill_null(pc.equal(*trimmed), False), np.bool_)
    reasons = batch.column("reason").to_numpy(zero_copy_only=False)
    refused = proposed & (reasons == "truncated") & (not rules.has_fixed_length)
    if rules.has_guard:
        change_NM = np.nan_to_num(after_NM - before_NM, nan=-np.inf)  # what cannot be scored does not pass
        own = change_NM[rows, turns]
        change_NM[rows, turns] = 0
        harmed = change_NM.argmin(axis=1)
        for why, mask in (
            ("scored_lower", own < 0),
            ("gained_too_little", (own < rules.guard_margin) | (own == 0)),
            ("harmed", change_NM[rows, harmed] < -rules.guard_max_loss),
        ):
            for row in np.flatnonzero(mask & proposed & ~same & ~refused):
                reasons[row] = why if why != "harmed" else f"harmed:{names[harmed[row]]}"
                refused[row] = True
    accepted = proposed & ~refused
    asked = np.asarray(pc.is_valid(batch.column("prompt")), np.bool_)
    decision = np.select(
        [~asked, np.asarray(pc.is_valid(batch.column("error")), np.bool_), accepted & same, accepted],
        ["not_asked", "failed", "unchanged", "rewritten"],
        "refused",  # by the guard, or because there is no text to put in: `reason` says why
    )
    changed = accepted & ~same
    tried = batch.column("tried").to_numpy() | np.where(asked, np.uint64(1) << turns.astype(np.uint64), np.uint64(0))
    mask = pa.array(changed)
    scores = pc.if_else(mask, batch.column("candidate_scores"), batch.column("scores"))
    batch = with_columns(
        batch,
        aligned=pc.if_else(mask, candidate, text),
        scores=scores,
        tried=pa.array(np.where(changed, np.uint64(0), tried)),
    )
    why = pa.array(reasons, pa.string())
    what = pa.array(decision, pa.string())
    return record(batch, step, batch.column("member"), candidate, scores, batch.column("candidate_scores"), what, why)
