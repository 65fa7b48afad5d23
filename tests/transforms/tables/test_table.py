"""Tables as they are found: their shards, samples, and what is wrong with them."""

import pyarrow.parquet as pq
import pytest
from copied_table import rows, write

from schemas.errors import UsageError
from transforms.tables import storage
from transforms.tables.table import read_table


@pytest.mark.parametrize(("rows", "expected"), [(3, ["id0000", "id0026", "id0052"]), (1, ["id0000"]), (99, None)])
def test_a_sample_is_taken_from_all_over_the_table(corpus, rows, expected):
    ids = read_table(str(corpus)).sample(rows, ["id"])["id"].to_pylist()
    assert ids == (expected or [f"id{row:04d}" for row in range(53)])
    assert read_table(str(corpus)).head(4).sample(2, ["id"])["id"].to_pylist() == ["id0000", "id0003"]


def test_files_are_named_after_those_they_are_made_of(tmp_path):
    for name in ("2026/a", "2026/b", "c"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(0, 3), tmp_path / "in" / f"{name}.parquet")
    write(tmp_path / "in", tmp_path / "out")
    assert [shard.name for shard in read_table(str(tmp_path / "out"), "responses").shards] == ["2026/a", "2026/b", "c"]
    for pattern, names in (("in/2026/*.parquet", ["a", "b"]), ("in/c.parquet", ["c"])):
        assert [shard.name for shard in read_table(str(tmp_path / pattern)).shards] == names


def test_a_name_with_brackets_is_no_pattern(tmp_path):
    folder = tmp_path / "a[1]"
    folder.mkdir()
    pq.write_table(rows(0, 3), folder / "a.parquet")
    assert read_table(str(folder)).rows == 3


def test_errors_name_the_file(tmp_path):
    with pytest.raises(UsageError, match="absent: no Parquet file there"):
        read_table(str(tmp_path / "absent"))
    broken = tmp_path / "broken.parquet"
    pq.write_table(rows(0, 9), broken)
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UsageError, match="broken.parquet: not a whole Parquet file"):
        read_table(str(broken))
    pq.write_table(rows(0, 9), tmp_path / "a.parquet")
    pq.write_table(rows(0, 9).drop_columns(["response"]), tmp_path / "b.parquet")
    broken.unlink()
    with pytest.raises(UsageError, match="b.parquet: its columns differ"):
        read_table(str(tmp_path))


def test_memory_store(tmp_path):
    with storage.open_output("memory://t/a.parquet") as file:
        pq.write_table(rows(0, 3), file)
    assert read_table("memory://t/a.parquet").rows == 3
    storage.remove("memory://t")
