"""Routing: which member's model is asked about which row, and what. N rows, M members."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.squads import SquadRules
from transforms.alignment.members import Member, criteria_of
from transforms.alignment.scoring import score_matrix
from transforms.synthesis.triples import rewrite_prompts
from transforms.tables.columns import with_columns
from transforms.tables.marks import kept, reject_where
from transforms.training_data.aligner_format import aligner_prompt

BYTES_PER_TOKEN = 3.0  # of text, at the least that is usual: a rewrite should not be cut for want of room
LIMIT_STEP = 64  # tokens; few different limits


def start_state(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Start every row as it came; reject one without a question or a response."""
    for column in ("question", "response"):
        values = batch.column(column)
        batch = reject_where(batch, pc.is_null(values), f"null_{column}")
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
        batch = reject_where(batch, blank, f"empty_{column}")
    tried = pa.array(np.zeros(batch.num_rows, np.uint64))
    return with_columns(batch, aligned=batch.column("response"), tried=tried)


def route(
    batch: pa.RecordBatch, members: Sequence[Member], rules: SquadRules, step: int, order: Sequence[int] = ()
) -> pa.RecordBatch:
    """Add `member`, `prompt` and `max_tokens` for the rows that are rewritten at this step (from 1).

    No failed row is. A rewrite may take twice the tokens of the text, or what the sampling says, if that is more.
    """
    scores_NM = score_matrix(batch, "scores", members)
    is_asked_NM = scores_NM < [member.threshold for member in members]
    if rules.every_row:
        is_asked_NM[:] = True
    if rules.routing == "worst":
        is_asked_NM &= ~is_tried(batch, len(members))
        turns = np.where(is_asked_NM, scores_NM, np.inf).argmin(axis=1)
    else:
        turns = turns_in_order(batch, step, order)
    is_asked = is_asked_NM[np.arange(batch.num_rows), turns] & np.asarray(kept(batch), np.bool_)
    prompts = np.full(batch.num_rows, None, object)
    for number, member in enumerate(members):
        rows = np.flatnonzero(is_asked & (turns == number))
        if len(rows):
            prompts[rows] = prompts_of(batch.take(pa.array(rows)), member)
    criteria = pa.array(criteria_of(members)).take(pa.array(turns, mask=~is_asked))
    batch = with_columns(batch, member=criteria, prompt=pa.array(prompts, pa.string()))
    if rules.has_fixed_length:
        return batch
    return with_columns(batch, max_tokens=room_for(batch.column("aligned")))


def room_for(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return how many tokens the rewrites of texts may have, where the sampling does not say more."""
    tokens = pc.divide(pc.binary_length(texts), BYTES_PER_TOKEN)
    limits = pc.multiply(pc.ceil(pc.divide(pc.multiply(tokens, 2.0), LIMIT_STEP)), LIMIT_STEP)
    return limits.cast(pa.int64())


def is_tried(batch: pa.RecordBatch, members: int) -> np.ndarray:
    """Return whether each member was tried on each row's text as it stands: bool[N, M]."""
    # tried [0b01, 0b10], two members: >> [0, 1] -> [[0b01, 0b00], [0b10, 0b01]], & 1 -> [[1, 0], [0, 1]]
    bits_M = np.arange(members, dtype=np.uint64)
    return (batch.column("tried").to_numpy()[:, None] >> bits_M) & np.uint64(1) == 1


def turns_in_order(batch: pa.RecordBatch, step: int, order: Sequence[int]) -> np.ndarray:
    """Return the number of the member whose turn each row has.

    The column `order` (lists of members' numbers, from 0) says so, else `order`, else the order of the members.
    """
    if "order" in batch.schema.names:
        return pc.list_element(batch.column("order"), step - 1).to_numpy().astype(np.int64)
    return np.full(batch.num_rows, order[step - 1] if order else step - 1)


def prompts_of(batch: pa.RecordBatch, member: Member) -> list[str | None]:
    """Return what the member's model is asked about every row's text as it stands."""
    if member.pack is not None:
        texts = with_columns(batch, response=batch.column("aligned"))
        return rewrite_prompts(texts, member.pack).column("prompt").to_pylist()
    pairs = zip(batch.column("question").to_pylist(), batch.column("aligned").to_pylist(), strict=True)
    return [aligner_prompt(question, text) for question, text in pairs]
