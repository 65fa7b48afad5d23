"""Files of shards: the same bytes however their rows came."""

import pyarrow as pa
import pyarrow.parquet as pq
from copied_table import SCHEMAS, rows

from transforms.tables import shard_file
from transforms.tables.shard_file import ShardFile, join_files


def test_parts_make_the_same_file_however_they_are_cut(tmp_path):
    batches = rows(0, 40_000).to_batches(1000)
    files = []
    for cut in (40, 3):
        parts = []
        for start in range(0, 40, cut):
            part = ShardFile(str(tmp_path / f"{cut}-{start}.parquet"), SCHEMAS["responses"])
            for batch in batches[start : start + cut]:
                part.write(batch)
            part.close()
            parts.append(part.path)
        files.append(tmp_path / f"joined-{cut}.parquet")
        assert join_files(parts, str(files[-1]), SCHEMAS["responses"])["rows"] == 40_000
    assert files[0].read_bytes() == files[1].read_bytes()
    sizes = [pq.ParquetFile(files[0]).metadata.row_group(group).num_rows for group in range(3)]
    assert sizes == [16384, 16384, 7232]


def test_row_groups_of_long_texts_are_the_same_however_they_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_file, "GROUP_BYTES", 1 << 20)
    long = pa.table(
        {
            "id": [f"id{i}" for i in range(2000)],
            "question": ["q" * (i % 97) for i in range(2000)],
            "response": ["r" * (3000 + i) for i in range(2000)],
            "note": [{"parts": [["x" * (i % 5)], None], "vector": [float(i)] * (i % 9)} for i in range(2000)],
            "scores": pa.array([[("a", 1.0), ("b", None)][: i % 3] for i in range(2000)], pa.map_("string", "double")),
            "is_new": [i % 3 == 0 for i in range(2000)],
        }
    )
    files = []
    for cut in (1000, 7, 2000):
        files.append(tmp_path / f"{cut}.parquet")
        file = ShardFile(str(files[-1]), long.schema)
        for batch in long.combine_chunks().to_batches(cut):
            file.write(batch)
        file.close()
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()
    assert pq.ParquetFile(files[0]).metadata.row_group(0).num_rows == 336
