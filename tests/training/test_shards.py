"""Training data is checked before any model is loaded."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import UsageError
from schemas.tables import INSPECTOR_ROWS
from training.shards import data_digest, manifest_digest, read_splits

ROWS = [{"id": str(i), "question": "q", "answer": "a", "label": i % 2} for i in range(4)]


def test_splits_are_read_in_shard_order_and_other_columns_left_out(write_shards):
    schema = INSPECTOR_ROWS.append(pa.field("note", pa.string()))
    folder = write_shards({"train": ROWS, "validation": ROWS}, schema)
    splits = read_splits(str(folder), INSPECTOR_ROWS)
    assert list(splits) == ["train", "validation"]
    assert splits["train"].schema == INSPECTOR_ROWS
    assert splits["train"].column("id").to_pylist() == ["0", "2", "1", "3"]


def test_a_label_of_another_width_is_taken_as_it_is(write_shards):
    schema = INSPECTOR_ROWS.set(3, pa.field("label", pa.int64()))
    folder = write_shards({"train": ROWS, "validation": ROWS}, schema)
    assert read_splits(str(folder), INSPECTOR_ROWS)["train"].column("label").type == pa.int8()


def test_shards_on_another_store_are_read(write_shards):
    import fsspec

    folder = write_shards({"train": ROWS, "validation": ROWS}, INSPECTOR_ROWS)
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/training-shards", recursive=True)
    try:
        splits = read_splits("memory://training-shards", INSPECTOR_ROWS)
        assert splits["validation"].num_rows == 4
        assert data_digest("memory://training-shards") == data_digest(str(folder))
    finally:
        store.rm("/training-shards", recursive=True)


def test_the_digest_follows_the_content_and_not_the_place(write_shards):
    splits = {"train": ROWS, "validation": ROWS}
    first = write_shards(splits, INSPECTOR_ROWS, "first")
    assert data_digest(str(first)) == data_digest(str(write_shards(splits, INSPECTOR_ROWS, "second")))
    changed = {"train": ROWS[::-1], "validation": ROWS}
    assert data_digest(str(first)) != data_digest(str(write_shards(changed, INSPECTOR_ROWS, "third")))


def test_the_manifest_is_found_beside_or_above_the_splits(write_shards, tmp_path):
    folder = write_shards({"train": ROWS}, INSPECTOR_ROWS, "inspector")
    assert manifest_digest(str(folder)) is None
    (tmp_path / "manifest.json").write_text('{"digest": "abc"}')
    assert manifest_digest(str(folder)) == "abc"


def _null(rows):
    return [*rows[:3], {**rows[3], "answer": None}]


@pytest.mark.parametrize(
    ("splits", "schema", "message"),
    [
        ({"train": ROWS}, INSPECTOR_ROWS, r"validation: no \*\.parquet there"),
        ({"train": [], "validation": ROWS}, INSPECTOR_ROWS, "train: its 2 shards hold no rows"),
        ({"train": ROWS, "validation": ROWS}, INSPECTOR_ROWS.remove(2), r"00000\.parquet: has no column answer"),
        (
            {"train": [{**row, "label": "good"} for row in ROWS], "validation": ROWS},
            INSPECTOR_ROWS.set(3, pa.field("label", pa.string())),
            r"00000\.parquet: a column has another type",
        ),
        ({"train": _null(ROWS), "validation": ROWS}, INSPECTOR_ROWS, "column answer is null in 1 rows, first in row 1"),
    ],
)
def test_shards_that_cannot_be_trained_on_are_named(write_shards, splits, schema, message):
    if schema.field("label").type == pa.string():
        splits = {split: [{**row, "label": "good"} for row in rows] for split, rows in splits.items()}
    folder = write_shards(splits, schema)
    with pytest.raises(UsageError, match=message):
        read_splits(str(folder), INSPECTOR_ROWS)


def test_a_truncated_file_and_an_absent_folder_are_named(write_shards, tmp_path):
    with pytest.raises(UsageError, match="absent: no such folder"):
        read_splits(str(tmp_path / "absent"), INSPECTOR_ROWS)
    folder = write_shards({"train": ROWS, "validation": ROWS}, INSPECTOR_ROWS)
    shard = folder / "train" / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"00001\.parquet: cannot be read as Parquet"):
        read_splits(str(folder), INSPECTOR_ROWS)
    pq.write_table(pa.table({"x": [1]}), shard)
    with pytest.raises(UsageError, match=r"has no column id, question, answer, label \(it has x\)"):
        read_splits(str(folder), INSPECTOR_ROWS)
