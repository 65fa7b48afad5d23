"""Rows for trainers: what each trainer reads, made of curated rows.

A trainer is one function and one line of TRAINER_ROWS: another needs no more, and its shards are planned and written
alike.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import ALIGNER_ROWS, INSPECTOR_ROWS

LABELS = {"response": 0, "correction": 1}


@dataclass(frozen=True)
class TrainerRows:
    """A trainer's rows: their schema, the split column that they are chosen by, and the function that makes them.

    to_rows: returns so many rows for each curated row, one after the other, with their `split`.
    """

    name: str
    schema: pa.Schema
    column: str
    to_rows: Callable[[pa.RecordBatch], pa.RecordBatch]
    rows_per_triple: int


def aligner_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the aligner's columns of curated triples, identity triples included.

    Where a table does not say which are, those are that have one text twice.
    """
    if "identity" not in batch.schema.names:
        batch = batch.append_column("identity", pc.equal(batch.column("response"), batch.column("correction")))
    return batch.select([*ALIGNER_ROWS.names, "split"])


def inspector_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return two rows a triple, one after the other.

    They are its response with label 0, and its correction with label 1. Their ids are the triple's with `:response` and
    `:correction` behind.
    """
    # two triples: responses, then corrections [y1, y2, z1, z2] → order [0, 2, 1, 3] → [y1, z1, y2, z2]
    order = pa.array(np.arange(2 * batch.num_rows).reshape(2, -1).T.ravel())
    columns = {
        "id": [pc.binary_join_element_wise(batch.column("id"), name, ":") for name in LABELS],
        "question": [batch.column("question")] * 2,
        "answer": [batch.column(name) for name in LABELS],
        "label": [pa.repeat(pa.scalar(label, pa.int8()), batch.num_rows) for label in LABELS.values()],
        "split": [batch.column("inspector_split")] * 2,
    }
    return pa.RecordBatch.from_pydict({name: pa.concat_arrays(halves).take(order) for name, halves in columns.items()})


TRAINER_ROWS = (
    TrainerRows("aligner", ALIGNER_ROWS, "split", aligner_rows, 1),
    TrainerRows("inspector", INSPECTOR_ROWS, "inspector_split", inspector_rows, 2),
)
