"""Shards whose file is another than it was."""

import pyarrow.parquet as pq
import pytest
from copied_table import SCHEMAS, rows

from schemas.errors import StageError
from transforms.tables.shards import read_shard
from transforms.tables.table import read_table
from transforms.tables.write import SplitMarks, WriteTables


def test_a_file_that_is_changed_while_it_is_read_makes_no_shard(corpus, tmp_path):
    table = read_table(str(corpus))
    pq.write_table(rows(0, 20), corpus / "a.parquet")
    with pytest.raises(StageError, match="a.parquet: was changed while it was read"):
        next(read_shard(table.shards[0], None, None))
    pq.write_table(rows(0, 50), corpus / "a.parquet")
    sink = WriteTables(str(tmp_path / "out"), SCHEMAS, SplitMarks("responses"), table.targets, {})
    with pytest.raises(StageError, match="a: 20 of its 50 rows were read; it was changed meanwhile"):
        sink.join(0, [{"first_row": 0, "rows": 20, "files": {}, "drops": {}, "rejects": {}}])
