import pyarrow as pa
import pytest

from schemas.errors import UsageError
from transforms.tables.columns import bring_back, check_free, check_texts, set_aside, with_columns


def test_a_column_set_aside_outlives_one_of_the_same_name():
    batch = pa.RecordBatch.from_pydict({"id": ["1"], "error": ["theirs"], "batch": [2], "aside:x": [3]})
    worked = with_columns(set_aside(batch, ("id",)), error=pa.array(["ours"]), aligned=pa.array(["text"]))
    assert worked.column("error").to_pylist() == ["ours"]
    assert bring_back(worked).to_pylist() == [
        {"id": "1", "error": "theirs", "aligned": "text", "batch": 2, "aside:x": 3}
    ]


def test_columns_that_are_missing_not_text_or_in_the_way_are_named():
    schema = pa.schema({"id": pa.int64(), "question": pa.string(), "aligned": pa.string()})
    with pytest.raises(UsageError, match="T: has no column 'response', 'x'; it has id, question, aligned"):
        check_texts("T", schema, ("question", "response", "x"))
    with pytest.raises(UsageError, match="T: column 'id' is not text but int64"):
        check_texts("T", schema, ("id", "question"))
    check_texts("T", schema, ("question",))
    with pytest.raises(UsageError, match="T: has 'aligned' already, which align adds; rename or drop"):
        check_free("T", schema, ("decision", "aligned"), "align")
    check_free("T", schema, ("decision",), "align")
