"""What was said of a row before it is aligned (again): any text column is read as the response, and none is lost.

An aligned table that is aligned again keeps what the earlier alignment said in a struct `layer_1`; a third alignment
adds `layer_2`.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import RESPONSES, aligned
from transforms.tables.columns import check_free, check_texts, with_columns

GIVEN = aligned(pa.schema([]), ()).names  # the columns that aligning adds
OVERWRITTEN = ("response", *GIVEN)
LAYER = re.compile(r"layer_(\d+)")


def check_responses(path: str, schema: pa.Schema, answer: str, *, is_chosen: bool = False) -> None:
    """Raise UsageError where a text is missing, or a column has a name that aligning gives.

    is_chosen: whether somebody said which column the answer is, and so knows that the others are kept in a layer.
    """
    check_texts(path, schema, ("id", "question", answer))
    if answer == "response" and not is_chosen:
        check_free(path, schema, GIVEN, "align")


def guess_answer(schema: pa.Schema) -> str:
    """Return the column that is the answer, as the table alone shows it."""
    return "aligned" if set(GIVEN) <= set(schema.names) else "response"


def layer_of(schema: pa.Schema, answer: str) -> tuple[str, list[pa.Field]]:
    """Return the layer's name and the columns that go into it; none where nothing would be overwritten."""
    columns = [column for column in schema if column.name in OVERWRITTEN]
    if answer == "response" and [column.name for column in columns] == ["response"]:
        columns = []
    numbers = [int(match[1]) for match in map(LAYER.fullmatch, schema.names) if match]
    return f"layer_{max(numbers, default=0) + 1}", columns


def with_layer(schema: pa.Schema, answer: str) -> pa.Schema:
    """Return the schema of `read_answer`."""
    name, columns = layer_of(schema, answer)
    response = pa.field("response", schema.field(answer).type)
    kept = [response if column.name == "response" else column for column in schema if column.name not in GIVEN]
    if "response" not in schema.names:
        kept.append(response)
    return pa.schema([*kept, pa.field(name, pa.struct(columns))] if columns else kept)


def read_answer(batch: pa.RecordBatch, answer: str) -> pa.RecordBatch:
    """Return the batch with the column `answer` as its `response`; what that and aligning overwrite is in a layer."""
    # id, response r, aligned a, decision d; answer `aligned` -> id, response a, layer_1 {response r, aligned a, …}
    name, columns = layer_of(batch.schema, answer)
    answers, parts = batch.column(answer), [batch.column(column.name) for column in columns]
    batch = batch.drop_columns([column.name for column in columns if column.name in GIVEN])
    batch = with_columns(batch, response=answers)
    if not columns:
        return batch
    return with_columns(batch, **{name: pc.make_struct(*parts, field_names=[column.name for column in columns])})


def read_responses(batch: pa.RecordBatch, answer: str) -> pa.RecordBatch:
    """Return id, question and the column `answer` as the response, of a batch that has these alone or more."""
    columns = [batch.column(name) for name in ("id", "question", answer)]
    return pa.RecordBatch.from_arrays(columns, names=RESPONSES.names)
