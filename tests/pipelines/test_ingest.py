"""An import as a whole: what is said before work, what is kept when it fails, and what is refused."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imported_corpus import ROWS, imported, lines, write_folder
from one_step import do

from pipelines import ingest
from schemas.command_line import DONE_WITH_REJECTS
from schemas.errors import StageError, UsageError
from transforms.corpora import fields, looks
from transforms.tables.table import read_table


def test_what_is_wrong_with_a_whole_file_is_said_before_work(tmp_path):
    def fails(name, content, message, **settings):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises((UsageError, StageError), match=message):
            imported(path, tmp_path / f"out-{name}", **settings)

    fails("a.jsonl", b"", "a.jsonl: holds no record$")
    fails("a.jsonl.gz", b"no gzip", r"a.jsonl.gz: holds no record.*line 1: unreadable_from_here: Not a gzipped")
    fails(
        "b.jsonl",
        b'{"ask": "?", "response": "!"}',
        "b.jsonl: no column for the question.*ask, response.*--question-column",
    )
    fails("c.docx", b"x", "c.docx: what is this")
    fails("d.json", b'{"question": 1}', "d.json: holds no record.*expected a JSON array")
    fails("e.parquet", b"PAR1 no", "e.parquet: not a whole Parquet file")
    fails(
        "f.jsonl",
        b'{"question": "a?", "response": "b"}',
        "no column for the response: looked for reply",
        response_column="reply",
    )
    fails("g.jsonl", b'{"question": null, "response": null}', "not one row could be used")
    with pytest.raises(UsageError, match="absent.jsonl: no such file"):
        imported(tmp_path / "absent.jsonl", tmp_path / "out")


def test_another_corpus_in_the_same_place_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": name, "response": "x"}))
    imported(tmp_path / "a.jsonl", tmp_path / "out")
    with pytest.raises(UsageError, match="holds the results of another input"):
        imported(tmp_path / "b.jsonl", tmp_path / "out")


def test_an_import_that_fails_keeps_the_files_that_it_had_read(tmp_path, monkeypatch):
    folder = tmp_path / "answers"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jsonl").write_bytes(lines(3))
    read_chunks, called = fields.read_chunks, []

    def fails_at_the_last(shard, *rest):
        called.append(shard)
        if len(called) == 3:
            raise StageError("gone")
        yield from read_chunks(shard, *rest)

    monkeypatch.setattr(ingest, "read_chunks", fails_at_the_last)
    with pytest.raises(StageError, match="gone"):
        imported(folder, tmp_path / "out")
    assert len(list((tmp_path / "out" / "entries").iterdir())) >= 1
    monkeypatch.undo()
    rows, _ = imported(folder, tmp_path / "out")
    assert len(rows) == 9


def test_what_would_be_read_or_written_twice_is_refused(tmp_path):
    folder = tmp_path / "answers"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines(2))
    (tmp_path / "link").symlink_to(folder)
    for corpus, out in ((folder, folder / "out"), (tmp_path / "link", folder)):
        with pytest.raises(UsageError, match="lies in the corpus .*, of which it would be a part"):
            imported(corpus, out)
    assert len(imported(folder, folder / ".." / "out")[0]) == 2
    pq.write_table(pa.table({"question": ["a?"], "response": ["b"]}), folder / "a.jsonl.parquet")
    with pytest.raises(UsageError, match="answers: a.jsonl and a.jsonl.parquet would be one file in the output"):
        imported(folder, tmp_path / "out")


def test_an_interrupted_import_is_not_mixed_with_another(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("1", "2"):
            (tmp_path / folder / f"{name}.jsonl").write_text(json.dumps({"question": folder + name, "response": "x"}))
    out = tmp_path / "out"
    imported(tmp_path / "a" / "*.jsonl", out)
    (out / "manifest.json").unlink()  # as if it had been interrupted
    (out / "entries" / "2.jsonl.json").unlink()
    with pytest.raises(UsageError, match="out: holds an unfinished import of another input"):
        imported(tmp_path / "b" / "*.jsonl", out)
    rows, _ = imported(tmp_path / "a" / "*.jsonl", out)
    assert [row["question"] for row in rows] == ["a1", "a2"]


def test_a_table_is_no_corpus(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    imported(tmp_path / "a.jsonl", tmp_path / "out")
    with pytest.raises(UsageError, match="out: is a table already"):
        imported(tmp_path / "out", tmp_path / "again")


def test_files_that_cannot_be_read_are_told_and_the_others_are_done(tmp_path, capsys):
    table = pa.table({"question": ["a?"], "response": ["b"]})
    files = dict.fromkeys(("cut", "damaged", "good", "none"), table) | {"nothing": [], "broken": [7]}
    path = write_folder(tmp_path / "rows", **files | {"none": table.slice(0, 0)})
    whole = (path / "cut.parquet").read_bytes()
    (path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (path / "damaged.parquet").write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    assert ingest.main([str(path), "-o", str(tmp_path / "out")]) == DONE_WITH_REJECTS
    said = capsys.readouterr().err
    for name, why in (
        ("cut.parquet", "not a whole Parquet file"),
        ("broken.jsonl", "holds no record that can be read .line 1: not_an_object"),
        ("none.parquet", "holds no record\n"),
        ("nothing.jsonl", "holds no record\n"),
    ):
        assert re.search(f"left out: .*/{name}: {why}", said)
    found = read_table(str(tmp_path / "out"), "rejects").to_arrow().to_pylist()
    assert [(row["source"].rpartition("/")[2], row["error"]) for row in found] == [
        ("broken.jsonl", "not_an_object"),
        ("cut.parquet", "unreadable_from_here"),
        ("damaged.parquet", "unreadable_from_here"),
    ]
    assert read_table(str(tmp_path / "out")).to_arrow()["question"].to_pylist() == ["a?"]


def write_lines(path, *questions: str) -> None:
    path.write_text("\n".join(json.dumps({"question": text, "response": "x"}) for text in questions))


@pytest.fixture
def looked(monkeypatch) -> list[str]:
    """The files that are looked into, by name; nothing is remembered of other tests."""
    looks.forget()
    names, look_at = [], fields.look_at
    monkeypatch.setattr(looks, "look_at", lambda path, *rest: names.append(Path(path).name) or look_at(path, *rest))
    return names


def test_a_step_continues_with_a_corpus_that_grew_and_looks_into_each_file_once(tmp_path, looked):
    folder = tmp_path / "answers"
    folder.mkdir()
    for name in "ab":
        write_lines(folder / f"{name}.jsonl", f"{name}?")
    config = ingest.Config(corpus=str(folder))
    ingest.KIND.check(config)
    schemas = ingest.KIND.gives(config, {})
    stage = do(ingest.KIND, config, tmp_path / "run")
    assert {name: stage.table(name).schema for name in ("responses", "rejects")} == schemas
    assert sorted(looked) == ["a.jsonl", "b.jsonl"]
    looks.forget()  # as another process knows nothing
    assert do(ingest.KIND, config, tmp_path / "run") == stage
    assert sorted(looked) == ["a.jsonl", "b.jsonl"]
    write_lines(folder / "c.jsonl", "c?")
    looks.forget()
    grown = do(ingest.KIND, config, tmp_path / "run")
    assert looked[2:] == ["c.jsonl"]
    assert grown.directory == stage.directory
    assert stage.table().to_arrow().column("question").to_pylist() == ["a?", "b?", "c?"]


def test_what_lies_in_the_run_directory_is_moved_with_it(tmp_path, monkeypatch):
    home = tmp_path / "first"
    home.mkdir()
    for name in ("a", "b"):
        write_lines(home / f"{name}.jsonl", f"{name}?")
    config = ingest.Config(corpus=str(home / "a.jsonl"))
    stage = do(ingest.KIND, config, home)
    assert do(ingest.KIND, ingest.Config(corpus=str(home / "b.jsonl")), home).directory != stage.directory
    home.rename(tmp_path / "second")
    monkeypatch.chdir(tmp_path)
    for corpus, output in ((str(tmp_path / "second" / "a.jsonl"), tmp_path / "second"), ("second/a.jsonl", "second")):
        moved = do(ingest.KIND, ingest.Config(corpus=corpus), output)
        assert (moved.digest, moved.inputs) == (stage.digest, stage.inputs)


def test_a_corpus_that_cannot_be_read_is_told_by_its_check(tmp_path):
    config = ingest.Config(corpus=str(tmp_path / "absent.jsonl"))
    assert ingest.KIND.gives(config, {}) == {}
    with pytest.raises(UsageError, match="absent.jsonl: no such file"):
        ingest.KIND.check(config)
    write_lines(tmp_path / "a.jsonl", "a?")
    with pytest.raises(UsageError, match="run: lies in the corpus .*, of which it would be a part"):
        do(ingest.KIND, ingest.Config(corpus=str(tmp_path)), tmp_path / "run")
