"""Records of files: every format, and what a broken one costs."""

import bz2
import errno
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imported_corpus import ROWS, imported, lines

from schemas.errors import StageError, UsageError
from transforms.corpora import records
from transforms.corpora.fields import MAX_TEXT_CHARS
from transforms.tables.identity import content_id


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.bz2", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif ending == "json":
        path.write_text(json.dumps(ROWS))
    elif ending in ("csv", "tsv"):
        separator = "," if ending == "csv" else "\t"
        path.write_text(
            "\n".join(separator.join(map(str, row)) for row in [ROWS[0].keys(), *(r.values() for r in ROWS)])
        )
    else:
        data = "\n".join(map(json.dumps, ROWS)).encode()
        path.write_bytes({"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.bz2": bz2.compress}[ending](data))
    rows, rejects = imported(path, tmp_path / "out")
    assert [(row["question"], row["response"], int(row["score"])) for row in rows] == [
        ("Why?", "So.", 3),
        ("Who?", "Me.", 4),
    ]
    assert rejects == []
    assert rows[0]["id"] != rows[1]["id"]


def test_a_bad_line_costs_one_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [
        b'{"question": "Why?", "response": "So."}',
        b'{"question": "cut',
        b'["a list"]',
        b'{"question": "Why\xff?", "response": "So."}',
        b'{"question": null, "response": "So."}',
        b'{"question": "Why?", "response": "  "}',
        b'{"question": "Why?", "response": 3}',
        b"",
        json.dumps({"question": "Why?", "response": "x" * (MAX_TEXT_CHARS + 1)}).encode(),
        b'{"question": "Last?", "response": "Yes."}',
    ]
    path.write_bytes(b"\n".join(lines))
    rows, rejects = imported(path, tmp_path / "out")
    assert [row["question"] for row in rows] == ["Why?", "Last?"]
    assert rejects == [
        (2, "malformed_json"),
        (3, "not_an_object"),
        (4, "invalid_utf8"),
        (5, "null_question"),
        (6, "empty_response"),
        (7, "response_is_not_text"),
        (9, "response_too_long"),
    ]


def test_a_csv_with_bad_bytes_and_a_short_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'question,response\nWhy?,"So,\nsir."\nWh\xe9?,So.\nalone\n')
    rows, rejects = imported(path, tmp_path / "out")
    assert [row["response"] for row in rows] == ["So,\nsir."]
    assert [error for _, error in rejects] == ["invalid_utf8", "wrong_number_of_fields"]


@given(st.binary(max_size=200))
def test_no_bytes_can_break_a_jsonl_file(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("junk") / "rows.jsonl"
    path.write_bytes(b'{"question": "a?", "response": "b"}\n' + junk + b'\n{"question": "c?", "response": "d"}')
    lines = [line for line in records.read_lines(str(path)) if line.error is None]
    assert (lines[0].values["question"], lines[-1].values["question"]) == ("a?", "c?")


def compress(text: bytes, ending: str) -> bytes:
    if ending == "zst":
        return pa.compress(text, "zstd", asbytes=True)
    return {"gz": gzip, "bz2": bz2, "xz": lzma}[ending].compress(text)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_file_that_breaks_off_gives_what_stands_before(tmp_path, ending):
    whole = compress(lines(30_000), ending)
    path = tmp_path / f"rows.jsonl.{ending}"
    path.write_bytes(whole[: len(whole) // 2])
    rows, rejects = imported(path, tmp_path / "out")
    assert 1000 < len(rows) < 30_000
    assert rejects == [(len(rows) + 1, "unreadable_from_here")]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_zstandard_is_read_frame_after_frame(tmp_path, kind):
    parts = {"jsonl": (b'{"question": "a?", "response": "b"}\n', b'{"question": "c?", "response": "d"}\n')}
    parts["csv"] = (b"question,response\na?,b\n", b"c?,d\n")
    path = tmp_path / f"rows.{kind}.zst"
    path.write_bytes(b"".join(compress(part, "zst") for part in parts[kind]))
    rows, rejects = imported(path, tmp_path / "out")
    assert ([row["question"] for row in rows], rejects) == (["a?", "c?"], [])


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), TimeoutError("no answer"), ConnectionResetError("by peer")]
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_disk_or_network_that_fails_is_no_broken_record(tmp_path, monkeypatch, name, error):
    def fails(*_):
        raise error

    path = tmp_path / name
    path.write_bytes(lines(3))
    monkeypatch.setattr(records, "_json_line", fails)
    monkeypatch.setattr(records.pq, "ParquetFile", fails)
    with pytest.raises(StageError, match=f"{name}: cannot be read .*the same command goes on"):
        imported(path, tmp_path / "out")


def test_garbage_within_a_compressed_file_costs_what_follows(tmp_path):
    whole = bytearray(gzip.compress(lines(30_000)))
    middle = len(whole) // 2
    whole[middle : middle + 5000] = b"\xff" * 5000
    (tmp_path / "rows.jsonl.gz").write_bytes(whole)
    rows, rejects = imported(tmp_path / "rows.jsonl.gz", tmp_path / "out")
    assert 1000 < len(rows) < 30_000
    assert rejects[-1][1] == "unreadable_from_here"


@pytest.mark.parametrize("nested", [False, True])
def test_bytes_that_are_not_utf8_in_a_parquet_file_cost_their_rows(tmp_path, nested):
    notes = pa.array([b"fine", b"\xff\xfe", None, b"\xe9"], pa.binary()).view(pa.string())
    if nested:
        notes = pa.ListArray.from_arrays([0, 1, 2, 3, 4], notes)
    table = pa.table({"question": ["a?", "b?", "c?", "d?"], "response": list("abcd"), "note": notes})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows, rejects = imported(tmp_path / "rows.parquet", tmp_path / "out")
    assert [row["question"] for row in rows] == ["a?", "c?"]
    assert rejects == [(2, "invalid_utf8"), (4, "invalid_utf8")]


def test_values_that_arrow_cannot_hold(tmp_path):
    path = tmp_path / "rows.jsonl"
    start = '{"question": "a?", "response": "b", "note": '
    path.write_text(f'{start}["\\ud800"]}}\n{start}{2**70}}}\n{start}{"[" * 100_000}')
    rows, rejects = imported(path, tmp_path / "out")
    assert [row["note"] for row in rows] == [str(2**70)]
    assert rejects == [(1, "invalid_utf8"), (3, "malformed_json")]


def test_batches_are_cut_where_rows_are_large(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "BATCH_BYTES", 3000)
    rows = [{"question": f"{n}?", "response": "r", "note": content_id(str(n)) * 32} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("\n".join(",".join(row) for row in [rows[0], *(row.values() for row in rows)]))
    for ending in ("jsonl", "json", "parquet", "csv"):
        batches = [len(lines) for lines, _ in records.read_batches(str(tmp_path / f"rows.{ending}"))]
        assert sum(batches) == 9
        assert 1 < max(batches) < 4


def test_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([["q?"], ["r"], [1], [2]], names=["question", "response", "n", "n"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match="rows.parquet: has several columns called n"):
        imported(tmp_path / "rows.parquet", tmp_path / "out")


def test_a_link_counts_as_what_it_leads_to(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    row = json.dumps({"question": "q?", "response": "r"})
    (tmp_path / "elsewhere" / "b.jsonl").write_text(row)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "latest.jsonl").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "b.jsonl").symlink_to(tmp_path / "elsewhere" / "b.jsonl")
    assert records.find_files(str(tmp_path / "corpus")) == [str(tmp_path / "corpus" / "b.jsonl")]


@pytest.mark.parametrize("name", ["x[1].jsonl", "x[1]/c.jsonl", "what?.jsonl", "a*b.jsonl"])
def test_a_file_that_exists_is_no_pattern(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"a": 1}\n')
    assert records.find_files(str(path)) == [str(path)]
    assert [line.values for line in records.read_lines(str(path))] == [{"a": 1}]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("c::d.jsonl", "c::d.jsonl: this file's name cannot be read, because :: chains stores in a path; rename it"),
        ("http://[::1]:8018/web/c.jsonl", r"c.jsonl: an address in brackets \(IPv6\) cannot be opened"),
        ("http://host:port/c.jsonl", "c.jsonl: this kind of path cannot be opened: Port could not be cast"),
        ("github://c.jsonl", "c.jsonl: this kind of path cannot be opened: .* missing"),
    ],
)
def test_a_path_that_no_store_takes_is_wrong_use(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c::d.jsonl").write_text("{}")
    with pytest.raises(UsageError, match=message):
        records.find_files(path)
