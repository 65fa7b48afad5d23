"""A table of 53 rows in two files, and the copy that a small pipeline makes of it."""

import apache_beam as beam
import pyarrow as pa
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from schemas.tables import RESPONSES, with_drop_reason
from transforms.tables.chunks import MapBatches
from transforms.tables.marks import drop_where
from transforms.tables.read import ReadTable
from transforms.tables.table import read_table
from transforms.tables.write import SplitMarks, WriteTables

SCHEMAS = {"responses": RESPONSES, "drops": with_drop_reason(RESPONSES)}


def rows(start, stop):
    return pa.table(
        {
            "id": [f"id{i:04d}" for i in range(start, stop)],
            "question": [f"question {i}" for i in range(start, stop)],
            "response": [f"response {i}" for i in range(start, stop)],
        }
    )


def drop_ending_in_3(batch):
    return drop_where(batch, pa.compute.ends_with(batch["id"], "3"), "ends_in_3")


def write(corpus, directory, skip=frozenset(), limit=None):
    table = read_table(str(corpus)).head(limit)
    with beam.Pipeline(runner=FnApiRunner()) as root:
        (
            root
            | ReadTable(table, skip=skip)
            | MapBatches(drop_ending_in_3)
            | WriteTables(str(directory), SCHEMAS, SplitMarks("responses"), table.targets, {"stage": "copy"})
        )
