"""Groups of alike rows and examples of them, from a curate stage on disk."""

import pyarrow as pa

from pipelines.report.duplicates import Duplicates, Pair, find_duplicates
from pipelines.report.stage_charts import group_sizes
from pipelines.runtime.runs import RecordedStage
from transforms.tables.table import read_manifest
from transforms.tables.write import write_tables

KEPT = [{"id": f"k{n}", "question": f"Question {n}?"} for n in range(3)]
DROPS = [
    *(
        {"id": f"e{n}", "question": "question 0", "drop_reason": "exact_duplicate", "duplicate_of": "k0"}
        for n in range(12)
    ),
    {"id": "n1", "question": "Question <b>1</b> a?", "drop_reason": "near_duplicate", "duplicate_of": "k1"},
    {"id": "n2", "question": "x" * 400, "drop_reason": "near_duplicate", "duplicate_of": "e0"},
    {"id": "n3", "question": "gone", "drop_reason": "not_novel", "duplicate_of": "nobody"},
    {"id": "n4", "question": None, "drop_reason": "empty_text", "duplicate_of": None},
]


def stage_with(tmp_path, kept, drops) -> RecordedStage:
    tables = {"questions": pa.Table.from_pylist(kept)} | ({"drops": pa.Table.from_pylist(drops)} if drops else {})
    write_tables(str(tmp_path), tables, {"stage": "curate", "digest": "d"}, 5)
    return RecordedStage("curate", str(tmp_path), "complete", 1.0, read_manifest(str(tmp_path)))


def test_groups_are_counted_by_size_and_pairs_stand_side_by_side(tmp_path):
    found = find_duplicates(stage_with(tmp_path, KEPT, DROPS))
    assert found.sizes == {13: 1, 2: 3}
    assert found.pairs == [
        Pair("near_duplicate", "Question <b>1</b> a?", "Question 1?"),
        Pair("near_duplicate", "x" * 300 + "…", "question 0"),
        Pair("not_novel", "gone", None),
    ]
    chart = group_sizes(found.sizes)
    assert chart is not None
    assert list(chart.rows) == [("2", 3), ("10–99", 1)]


def test_a_stage_that_dropped_nothing_has_no_groups(tmp_path):
    assert find_duplicates(stage_with(tmp_path, KEPT, [])) == Duplicates()
    assert group_sizes(Duplicates().sizes) is None
