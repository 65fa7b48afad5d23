import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from schemas.errors import StageError, UsageError
from schemas.tables import RESPONSES, with_drop_reason
from transforms.tables import shard_file, storage
from transforms.tables.chunks import Chunk, ChunkCoder, MapBatches
from transforms.tables.entries import complete_entries, read_entries
from transforms.tables.marks import drop_where
from transforms.tables.read import ReadTable
from transforms.tables.shard_file import ShardFile, join_files
from transforms.tables.shards import Target, read_shard
from transforms.tables.table import read_manifest, read_table
from transforms.tables.write import SplitMarks, WriteTables, _WriteParts

SCHEMAS = {"responses": RESPONSES, "drops": with_drop_reason(RESPONSES)}


def rows(start, stop):
    return pa.table(
        {
            "id": [f"id{i:04d}" for i in range(start, stop)],
            "question": [f"question {i}" for i in range(start, stop)],
            "response": [f"response {i}" for i in range(start, stop)],
        }
    )


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    pq.write_table(rows(0, 50), folder / "a.parquet", row_group_size=7)
    pq.write_table(rows(50, 53), folder / "b.parquet")
    return folder


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


def test_chunk_coder_carries_the_slice_only():
    batch = rows(0, 50).to_batches()[0].slice(10, 2)
    chunk = Chunk(3, 10, 2, batch)
    encoded = ChunkCoder().encode(chunk)
    assert ChunkCoder().decode(encoded) == chunk
    assert len(encoded) < 1000
    assert isinstance(beam.coders.registry.get_coder(Chunk), ChunkCoder)


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


def test_limit_takes_the_first_rows(corpus, tmp_path):
    write(corpus, tmp_path / "out", limit=12)
    assert read_manifest(str(tmp_path / "out"))["counts"]["in"] == 12


@pytest.mark.parametrize(("rows", "expected"), [(3, ["id0000", "id0026", "id0052"]), (1, ["id0000"]), (99, None)])
def test_a_sample_is_taken_from_all_over_the_table(corpus, rows, expected):
    ids = read_table(str(corpus)).sample(rows, ["id"])["id"].to_pylist()
    assert ids == (expected or [f"id{row:04d}" for row in range(53)])
    assert read_table(str(corpus)).head(4).sample(2, ["id"])["id"].to_pylist() == ["id0000", "id0003"]


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


def test_files_are_named_after_those_they_are_made_of(tmp_path):
    for name in ("2026/a", "2026/b", "c"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(0, 3), tmp_path / "in" / f"{name}.parquet")
    write(tmp_path / "in", tmp_path / "out")
    assert [shard.name for shard in read_table(str(tmp_path / "out"), "responses").shards] == ["2026/a", "2026/b", "c"]
    for pattern, names in (("in/2026/*.parquet", ["a", "b"]), ("in/c.parquet", ["c"])):
        assert [shard.name for shard in read_table(str(tmp_path / pattern)).shards] == names


def test_a_shard_that_is_joined_again_stays_as_it_is(corpus, tmp_path):
    write(corpus, tmp_path / "out")
    gone = {"first_row": 0, "rows": 45, "files": {"responses": str(tmp_path / "out" / "parts" / "gone.parquet")}}
    targets = read_table(str(corpus)).targets
    write_again = WriteTables(str(tmp_path / "out"), SCHEMAS, SplitMarks("responses"), targets, {})
    entries = read_entries(str(tmp_path / "out"))
    assert write_again.join(0, [gone]) == 0
    assert read_entries(str(tmp_path / "out")) == entries


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


def test_a_file_that_is_changed_while_it_is_read_makes_no_shard(corpus, tmp_path):
    table = read_table(str(corpus))
    pq.write_table(rows(0, 20), corpus / "a.parquet")
    with pytest.raises(StageError, match="a.parquet: was changed while it was read"):
        next(read_shard(table.shards[0], None, None))
    pq.write_table(rows(0, 50), corpus / "a.parquet")
    sink = WriteTables(str(tmp_path / "out"), SCHEMAS, SplitMarks("responses"), table.targets, {})
    with pytest.raises(StageError, match="a: 20 of its 50 rows were read; it was changed meanwhile"):
        sink.join(0, [{"first_row": 0, "rows": 20, "files": {}, "drops": {}, "rejects": {}}])


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


def test_a_full_disk_is_a_stage_error(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StageError, match="no space left"), storage.open_output(str(tmp_path / "x")) as file:
        file.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_the_mark_of_a_missing_file_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="absent.jsonl: no such file"):
        storage.mark(str(tmp_path / "absent.jsonl"))
