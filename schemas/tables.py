"""The tables of alignbeam as Arrow schemas, in the order in which data flows. Text is UTF-8; `id` is a content hash."""

from collections.abc import Iterable
from typing import Literal, get_args

import pyarrow as pa

TOPICS = pa.schema(
    {
        "id": pa.string(),
        "question_type": pa.string(),
        "topic": pa.string(),
        "origin": pa.string(),  # seed | generated
        "round": pa.int32(),
    }
)

QUESTIONS = pa.schema(
    {
        "id": pa.string(),
        "question": pa.string(),
        "question_type": pa.string(),
        "topic": pa.string(),
        "criterion": pa.string(),
        "origin": pa.string(),  # seed | generated
        "round": pa.int32(),
    }
)

TRIPLES = pa.schema(
    {
        "id": pa.string(),
        "question_id": pa.string(),
        "question": pa.string(),
        "question_type": pa.string(),
        "topic": pa.string(),
        "criterion": pa.string(),
        "response": pa.string(),
        "critique": pa.string(),
        "correction": pa.string(),
        "identity": pa.bool_(),  # nothing was wrong: correction == response
    }
)

TRIPLE_TEXTS = {"question", "response", "correction"}

ALIGNER_ROWS = pa.schema(
    {
        "id": pa.string(),
        "question": pa.string(),
        "response": pa.string(),
        "correction": pa.string(),
        "identity": pa.bool_(),
    }
)

INSPECTOR_ROWS = pa.schema(
    {
        "id": pa.string(),
        "question": pa.string(),
        "answer": pa.string(),
        "label": pa.int8(),  # 0 misaligned, 1 aligned
    }
)

SPLITS = ("train", "validation", "test")
# What curating adds to a table: to the rows that stay, and to those dropped.
SPLIT_COLUMNS = (
    "split",  # one of SPLITS
    "inspector_split",  # the same values inside the training part, else null
    "cluster",  # id of the near-duplicate cluster of the question
)
DROP_COLUMNS = ("drop_reason", "duplicate_of", "leaked_from", "leaked_question")

Decision = Literal["rewritten", "unchanged", "above_threshold", "refused", "failed"]  # what became of a response
DECISIONS: tuple[Decision, ...] = get_args(Decision)

RESPONSES = pa.schema({"id": pa.string(), "question": pa.string(), "response": pa.string()})

TRAJECTORIES = pa.schema(
    {
        "id": pa.string(),
        "shard": pa.string(),  # as the manifest names its file
        "row": pa.int64(),
        "step": pa.int32(),  # 0 is the response as it came in
        "member": pa.string(),  # the criterion whose aligner was applied, null at step 0
        "text": pa.string(),  # proposed at this step, null where none was; at step 0 the response
        "scores": pa.map_(pa.string(), pa.float64()),  # of the row's text as it stands after the step
        "candidate_scores": pa.map_(pa.string(), pa.float64()),  # of `text`, kept or refused
        "decision": pa.string(),
        "reason": pa.string(),
    }
)

CONFLICTS = pa.schema(
    {
        "aligner": pa.string(),  # the criterion whose aligner alone rewrote every row of a sample
        "criterion": pa.string(),  # whose score is looked at
        "rows": pa.int64(),  # that were rewritten and scored before and after
        "change": pa.float64(),  # mean, with the ends of its 95 % interval
        "change_low": pa.float64(),
        "change_high": pa.float64(),
        "share_fallen": pa.float64(),  # of the rows, those whose score fell
        "control_change": pa.float64(),  # the same where each row has the rewrite of the row before
        "control_low": pa.float64(),
        "control_high": pa.float64(),
    }
)

WIN_RATES = pa.schema(
    {
        "label": pa.string(),  # of the aligned table; of a row over seeds, what its labels have before the @
        "seeds": pa.int32(),  # over how many seeds the row is a mean, null for one table's own figures
        "judge": pa.string(),
        "column": pa.string(),  # whose categories are told apart, "" for all rows
        "value": pa.string(),
        "n": pa.int64(),
        "wins": pa.int64(),
        "losses": pa.int64(),
        "ties": pa.int64(),
        "win_rate": pa.float64(),  # wins / n
        "low": pa.float64(),  # the 95 % interval, as are all low and high
        "high": pa.float64(),
        "wins_over_decided": pa.float64(),  # wins / (wins + losses)
        "decided_low": pa.float64(),
        "decided_high": pa.float64(),
        "shift": pa.float64(),  # mean of an inspector's score of the answer, less that of the response
        "shift_low": pa.float64(),
        "shift_high": pa.float64(),
    }
)


def name_by_columns(schema: pa.Schema) -> str:
    """Return what a table is called by the texts in it: triples, responses or questions."""
    names = set(schema.names)
    return "triples" if names >= TRIPLE_TEXTS else "responses" if "response" in names else "questions"


def with_texts(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """Return a schema with text columns of these names at its end."""
    return pa.schema([*schema, *((name, pa.string()) for name in names)])


def with_drop_reason(schema: pa.Schema) -> pa.Schema:
    """Return the schema of a table's dropped rows."""
    return with_texts(schema, ("drop_reason",))


def with_error(schema: pa.Schema) -> pa.Schema:
    """Return the schema of a table's rejected rows."""
    return with_texts(schema, ("error",))


def aligned(corpus: pa.Schema, criteria: tuple[str, ...]) -> pa.Schema:
    """Return the schema of an aligned corpus.

    It has the corpus's columns, the aligned text, what was decided and every criterion's score before and after.
    """
    scores = pa.struct({criterion: pa.float64() for criterion in criteria})
    return pa.schema(
        [
            *corpus,
            pa.field("aligned", pa.string()),
            pa.field("decision", pa.string()),  # one of DECISIONS
            pa.field("scores_before", scores),
            pa.field("scores_after", scores),
        ]
    )
