"""Routing: which member's model is asked about which row, and what."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.alignment.policy import Member, Policy
from transforms.alignment.scoring import score_matrix
from transforms.synthesis.triples import rewrite_prompts
from transforms.tables.columns import with_columns
from transforms.tables.marks import kept, reject_where
from transforms.training_data.aligner_format import aligner_prompt

BYTES_PER_TOKEN = 3.0  # of text, at the least that is usual: a rewrite should not be cut for want of room
LIMIT_STEP = 64  # tokens; few different limits


def start_state(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Every row starts as it is; one without a question or a response is rejected."""
    for column in ("question", "response"):
        values = batch.column(column)
        batch = reject_where(batch, pc.is_null(values), f"null_{column}")
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
        batch = reject_where(batch, blank, f"empty_{column}")
    tried = pa.array(np.zeros(batch.num_rows, np.uint64))
    return with_columns(batch, aligned=batch.column("response"), tried=tried)


def route(batch: pa.RecordBatch, members: Sequence[Member], policy: Policy, step: int) -> pa.RecordBatch:
    """Give `member`, `prompt` and `max_tokens` to the rows that are rewritten at this step (from 1); no failed one is.

    A rewrite may take twice the tokens of the text, or what the sampling says, if that is more.
    """
    scores_NM = score_matrix(batch, "scores", members)
    asked_NM = scores_NM < [member.threshold for member in members]
    if policy.every_row:
        asked_NM[:] = True
    if policy.routing == "worst":
        bits = np.arange(len(members), dtype=np.uint64)
        asked_NM &= (batch.column("tried").to_numpy()[:, None] >> bits) & np.uint64(1) == 0
        turns = np.where(asked_NM, scores_NM, np.inf).argmin(axis=1)
    elif "order" in batch.schema.names:
        turns = pc.list_element(batch.column("order"), step - 1).to_numpy().astype(np.int64)
    else:
        turns = np.full(batch.num_rows, policy.order[step - 1] if policy.order else step - 1)
    asked = asked_NM[np.arange(batch.num_rows), turns] & np.asarray(kept(batch), np.bool_)
    prompts = np.full(batch.num_rows, None, object)
    for number, member in enumerate(members):
        rows = np.flatnonzero(asked & (turns == number))
        if len(rows):
            prompts[rows] = prompts_of(batch.take(pa.array(rows)), member)
    names = pa.array([member.criterion for member in members]).take(pa.array(turns, mask=~asked))
    batch = with_columns(batch, member=names, prompt=pa.array(prompts, pa.string()))
    if policy.fixed_length:
        return batch
    tokens = pc.divide(pc.binary_length(batch.column("aligned")), BYTES_PER_TOKEN)
    limits = pc.multiply(pc.ceil(pc.divide(pc.multiply(tokens, 2.0), LIMIT_STEP)), LIMIT_STEP)
    return with_columns(batch, max_tokens=limits.cast(pa.int64()))


def prompts_of(batch: pa.RecordBatch, member: Member) -> list[str | None]:
    """What the member's model is asked about the text of every row as it stands."""
    if member.pack is not None:
        texts = with_columns(batch, response=batch.column("aligned"))
        return rewrite_prompts(texts, member.pack).column("prompt").to_pylist()
    pairs = zip(batch.column("question").to_pylist(), batch.column("aligned").to_pylist(), strict=True)
    return [aligner_prompt(question, text) for question, text in pairs]
