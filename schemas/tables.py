"""The tables of alignbeam as Arrow schemas, in the order in which data flows. Text is UTF-8; `id` is a content hash."""

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

CURATED_TRIPLES = pa.schema(
    [
        *TRIPLES,
        pa.field("split", pa.string()),  # train | validation | test
        pa.field("inspector_split", pa.string()),  # the same values inside the training part, else null
        pa.field("cluster", pa.string()),  # id of the near-duplicate cluster of the question
    ]
)

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

# What curating adds to a table: to the rows that stay, and to those dropped.
SPLIT_COLUMNS = ("split", "inspector_split", "cluster")
DROP_COLUMNS = ("drop_reason", "duplicate_of", "leaked_from", "leaked_question")

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


def with_drop_reason(schema: pa.Schema) -> pa.Schema:
    """Return the schema of a table's dropped rows."""
    return schema.append(pa.field("drop_reason", pa.string()))


def with_error(schema: pa.Schema) -> pa.Schema:
    """Return the schema of a table's rejected rows."""
    return schema.append(pa.field("error", pa.string()))


def aligned(corpus: pa.Schema, criteria: tuple[str, ...]) -> pa.Schema:
    """Return the corpus's columns, the aligned text, what was decided and every criterion's score before and after."""
    scores = pa.struct({criterion: pa.float64() for criterion in criteria})
    return pa.schema(
        [
            *corpus,
            pa.field("aligned", pa.string()),
            pa.field("decision", pa.string()),  # above_threshold | rewritten | unchanged | refused | failed
            pa.field("scores_before", scores),
            pa.field("scores_after", scores),
        ]
    )
