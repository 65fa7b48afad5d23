"""Tables as they are written: a shard for each of the input's, whole or not at all."""

import pyarrow.parquet as pq
import pytest
from copied_table import SCHEMAS, rows, write

from transforms.tables.chunks import Chunk
from transforms.tables.entries import complete_entries, read_entries
from transforms.tables.shards import Target, read_shard
from transforms.tables.table import read_manifest, read_table
from transforms.tables.write import SplitMarks, WriteTables, _WriteParts


def test_shards_mirror_the_input_in_order(corpus, tmp_path):
    out = tmp_path / "out"
    write(corpus, out)
    written = read_table(str(out), "responses")
    assert [shard.rows for shard in written.shards] == [45, 3]
    assert written.to_arrow().column("id").to_pylist() == [f"id{i:04d}" for i in range(53) if i % 10 != 3]
    drops = read_table(str(out), "drops").to_arrow()
    assert drops.column("id").to_pylist() == ["id0003", "id0013", "id0023", "id0033", "id0043"]
    assert set(drops.column("drop_reason").to_pylist()) == {"ends_in_3"}
    manifest = read_manifest(str(out))
    assert manifest["counts"] == {"in": 53, "kept": 48, "drops": {"ends_in_3": 5}, "rejects": {}}
    assert not (out / "parts").exists()


def test_a_complete_shard_is_not_written_again(corpus, tmp_path):
    out = tmp_path / "out"
    write(corpus, out)
    (out / "manifest.json").unlink()
    (out / "entries" / "b.json").unlink()
    kept_file = out / "responses" / "a.parquet"
    before = kept_file.stat().st_mtime_ns
    write(corpus, out, skip=frozenset(complete_entries(str(out), read_table(str(corpus)).targets)))
    assert kept_file.stat().st_mtime_ns == before
    assert read_manifest(str(out))["counts"]["in"] == 53


def test_a_missing_shard_keeps_the_manifest_back(corpus, tmp_path):
    with pytest.raises(Exception, match="1 of 2 shards are complete"):
        write(corpus, tmp_path / "out", skip=frozenset({0}))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_replayed_bundle_writes_the_same_parts_under_other_names(corpus, tmp_path):
    chunks = [Chunk(0, i * 5, 5, batch) for i, batch in enumerate(rows(0, 20).to_batches(5))]

    def bundle(count):
        targets = {0: Target("a", rows=50)}
        writer = _WriteParts(WriteTables(str(tmp_path / "out"), SCHEMAS, SplitMarks("responses"), targets, {}))
        writer.start_bundle()
        for chunk in chunks[:count]:
            writer.process(chunk)
        return [value.value for value in writer.finish_bundle()] if count == len(chunks) else []

    bundle(2)  # aborted
    [(_, first)], [(_, again)] = bundle(4), bundle(4)
    files, others = first.pop("files"), again.pop("files")
    assert first == again
    assert first["rows"] == 20
    assert files["responses"] != others["responses"]
    assert pq.read_table(files["responses"]).equals(pq.read_table(others["responses"]))
    assert not list((tmp_path / "out" / "parts").glob("*.tmp-*"))


def test_a_shard_whose_rows_all_passed_is_complete_before_the_bundle_ends(corpus, tmp_path):
    table = read_table(str(corpus))
    tables = WriteTables(str(tmp_path / "out"), SCHEMAS, SplitMarks("responses"), table.targets, {})
    writer = _WriteParts(tables)
    writer.start_bundle()
    chunks = list(read_shard(table.shards[0], None, None, 10))
    for chunk in [*chunks[3:], *chunks[:3], *list(read_shard(table.shards[1], None, None, 2))[:1]]:
        writer.process(chunk)
    assert list(complete_entries(str(tmp_path / "out"), table.targets)) == [0]
    written = pq.read_table(tmp_path / "out" / "responses" / "a.parquet")
    assert written["id"].to_pylist() == [f"id{i:04d}" for i in range(50)]
    assert [value.value[0] for value in writer.finish_bundle()] == [1]


def test_a_shard_that_is_joined_again_stays_as_it_is(corpus, tmp_path):
    write(corpus, tmp_path / "out")
    gone = {"first_row": 0, "rows": 45, "files": {"responses": str(tmp_path / "out" / "parts" / "gone.parquet")}}
    targets = read_table(str(corpus)).targets
    write_again = WriteTables(str(tmp_path / "out"), SCHEMAS, SplitMarks("responses"), targets, {})
    entries = read_entries(str(tmp_path / "out"))
    assert write_again.join(0, [gone]) == 0
    assert read_entries(str(tmp_path / "out")) == entries
