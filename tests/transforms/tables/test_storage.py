"""Names that come from files and servers, and files that are opened in place."""

import json
import os
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import ingest
from pipelines.commands import evaluate, status
from pipelines.recipe.graph import read_graph
from pipelines.recipe.registry import STAGES
from pipelines.runtime import runs
from pipelines.runtime.at_work import at_work
from pipelines.runtime.runs import open_run
from pipelines.runtime.stage import Stage
from schemas.command_line import WRONG_USE
from schemas.errors import StageError, UsageError
from schemas.names import check_name
from training.run_folder import TrainingRun
from training.shards import read_split
from transforms.generation import cache_index
from transforms.tables import storage
from transforms.tables.entries import read_entries
from transforms.tables.table import read_table
from transforms.tables.write import write_tables

OUTSIDE = "which does not lie below its folder"
AWAY = [
    "../x",
    "a/../../x",
    "/etc/passwd",
    "a//b",
    ".",
    "",
    "..\\x",
    "C:\\x",
    "C:/x",
    "~/x",
    "~root/x",
    "~",
    "a\0b",
    "file:///etc/passwd",
    "x::file:///etc/passwd",
    "..%2fx",
    "%2e%2e/x",
    "%252e%252e/x",
    "a%5C..",
    "a%00",
    None,
    3,
]
INSIDE = ["a", "a/b.parquet", "a..b", "...", "a b/c%20d.jsonl", "100%.jsonl", "~$a.csv", "ä:b", "a?b*[1]"]


@pytest.mark.parametrize("name", AWAY)
def test_a_name_that_leads_away_is_refused(name):
    with pytest.raises(UsageError) as caught:
        check_name(name, "t/manifest.json")
    assert str(caught.value).startswith(f"t/manifest.json: names {name!r}, {OUTSIDE}")


@pytest.mark.parametrize("name", INSIDE)
def test_a_name_below_its_folder_passes(name):
    assert check_name(name, "t/manifest.json") == name


def test_the_fixed_part_of_a_pattern_at_a_root():
    parts = {"/*.x": "/", "memory://*.x": "memory://", "a/*.x": "a", "*.x": "", "/a/b.x": "/a", "s3://b/*": "s3://b"}
    assert {pattern: storage.fixed_part(pattern) for pattern in parts} == parts


@pytest.fixture
def secret(tmp_path):
    """A table that lies beside the folder `t` of the tests, and must be neither read nor written."""
    pq.write_table(pa.table({"id": ["secret"]}), tmp_path / "secret.parquet")
    return tmp_path / "secret.parquet"


@pytest.mark.parametrize(
    "path", ["../secret.parquet", "rows/../../secret.parquet", "{absolute}", "rows/%2e%2e/%2e%2e/secret.parquet"]
)
def test_a_manifest_reads_no_shard_outside_its_table(tmp_path, secret, path):
    path = path.format(absolute=secret)
    write_tables(str(tmp_path / "t"), {"rows": pa.table({"id": ["a"]})}, {}, 10)
    manifest = storage.read_json(str(tmp_path / "t" / "manifest.json"))
    assert read_table(str(tmp_path / "t")).to_arrow().to_pydict() == {"id": ["a"]}
    manifest["tables"]["rows"]["shards"][0]["path"] = path
    (tmp_path / "t" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=rf"t/manifest\.json: names '.*secret\.parquet', {OUTSIDE}"):
        read_table(str(tmp_path / "t"))


def test_a_manifest_names_no_table_outside_its_folder(tmp_path, secret):
    shards = {"shards": [{"path": "../secret.parquet", "digest": ""}]}
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "manifest.json").write_text(json.dumps({"tables": {"..": shards}}))
    with pytest.raises(UsageError, match=rf"names '\.\.', {OUTSIDE}"):
        read_table(str(tmp_path / "t"))


@pytest.mark.parametrize(
    ("name", "path"), [("../../x", "rows/../../x.parquet"), ("b", "rows/b.parquet"), ("a", "../rows/a.parquet")]
)
def test_an_entry_names_no_files_but_its_own(tmp_path, name, path):
    entry = {"name": name, "mark": "", "rejects": {"e": 1}, "tables": {"rows": {"path": path}}}
    storage.write_json(str(tmp_path / "entries" / "a.json"), entry)
    with pytest.raises(UsageError, match=r"entries/a\.json: names the files of another shard"):
        read_entries(str(tmp_path))


@pytest.mark.parametrize("field", ["array", "segments"])
def test_a_caches_index_maps_no_file_outside(tmp_path, field, caplog):
    cache_index.save_index(str(tmp_path), cache_index.load_index(str(tmp_path)))
    index = storage.read_json(str(tmp_path / "index.json"))
    (tmp_path / index["array"]).rename(tmp_path.parent / "outside.npy")
    changed = {"array": "../outside.npy", "segments": []} if field == "array" else {"array": "x", "segments": ["../y"]}
    (tmp_path / "index.json").write_text(json.dumps(changed))
    assert cache_index.load_index(str(tmp_path)).segments == []
    assert f"index cannot be read and is made anew ({tmp_path}/index.json: names '../" in caplog.text


def test_run_json_names_no_folder_outside(tmp_path):
    folder = str(tmp_path / "run")
    storage.write_json(f"{folder}/run.json", {"name": "r", "stages": [{"stage": "align", "directory": "../t"}]})
    readers = [open_run, status.print_status, evaluate.find_alignments, lambda path: runs._read(path)]
    for read in readers:
        with pytest.raises(UsageError, match=rf"run/run\.json: \S+: names '\.\./t', {OUTSIDE}"):
            read(folder)


def test_a_stages_name_from_a_settings_file_stays_below_the_output(tmp_path):
    with pytest.raises(UsageError, match=OUTSIDE):
        Stage.under(str(tmp_path / "out"), "../../x", {})


def test_a_steps_name_stays_below_the_output(tmp_path):
    step = {"stage": "questions", "model": "m", "pack": "ethical"}
    recipe = {"name": "r", "models": {"m": {"model": "m"}}, "steps": {"../../x": step}}
    with pytest.raises(UsageError, match=r"steps\.\.\./\.\./x: "):
        read_graph(recipe, STAGES)


@pytest.fixture
def listing(request) -> Iterator[str]:
    """A web server whose folder `data` lists a file of its own and those of the test's parameters."""
    asked: list[str] = []

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            is_listing = self.path.rstrip("/") == "/data"
            links = "".join(f'<a href="{name}">x</a>' for name in ("a.jsonl", "../about.html", *request.param))
            body = links.encode() if is_listing else b'{"question": "q", "response": "r"}\n'
            self.send_response(200 if is_listing or self.path == "/data/a.jsonl" else 404)
            self.send_header("Content-Type", "text/html" if is_listing else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/data"
    server.shutdown()
    server.server_close()
    assert [path for path in asked if "secret" in path or "%2" in path] == []  # not even asked for


@pytest.mark.parametrize("listing", [["../../secret.jsonl"], ["..%2f..%2fsecret.jsonl"]], indirect=True)
@pytest.mark.parametrize("pattern", ["", "/**/*.jsonl"])
def test_a_servers_listing_leads_to_no_file_outside(listing, pattern, tmp_path):
    output = tmp_path / "a" / "b" / "out"
    arguments = [listing + pattern, "-o", str(output), "--kind", "responses"]
    with pytest.raises(UsageError, match=rf"/data.*: names '\.\..*secret\.jsonl', {OUTSIDE}"):
        ingest.import_into(ingest.Config(corpus=listing + pattern), str(output))
    assert ingest.main(arguments) == WRONG_USE
    assert sorted(path.name for path in tmp_path.rglob("*secret*")) == []


@pytest.mark.parametrize("listing", [[]], indirect=True)
def test_a_servers_honest_listing_is_read(listing, tmp_path):
    stage = ingest.import_into(ingest.Config(corpus=listing), str(tmp_path / "out"))
    assert stage.table("responses").to_arrow(["question", "response"]).to_pylist() == [
        {"question": "q", "response": "r"}
    ]
    assert [shard.name for shard in stage.table("responses").shards] == ["a.jsonl"]


@pytest.mark.parametrize("listing", [["..%2fsecret.parquet"]], indirect=True)
def test_training_shards_of_a_server_lie_in_their_folder(listing):
    with pytest.raises(UsageError, match=OUTSIDE):
        read_split(listing.removesuffix("/data"), "data", pa.schema({"id": pa.string()}))


def make_link(lock: Path, victim: Path) -> None:
    lock.symlink_to(victim)


def make_dangling_link(lock: Path, victim: Path) -> None:
    lock.symlink_to(victim.parent / "new")


def make_hard_link(lock: Path, victim: Path) -> None:
    lock.hardlink_to(victim)


def make_pipe(lock: Path, victim: Path) -> None:
    os.mkfifo(lock)


def make_folder(lock: Path, victim: Path) -> None:
    lock.mkdir()


def lock_a_directory(folder: Path) -> None:
    with at_work(str(folder)):
        pass


def lock_a_training_run(folder: Path) -> None:
    folder.rename(folder.with_name("m.training"))
    TrainingRun(folder.with_name("m"), {"method": "inspector"}).begin()


@pytest.mark.parametrize("plant", [make_link, make_dangling_link, make_hard_link, make_pipe, make_folder])
@pytest.mark.parametrize(("name", "take"), [("at_work.lock", lock_a_directory), ("lock", lock_a_training_run)])
def test_a_lock_is_a_plain_file_or_refused(tmp_path, name, take, plant):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "work").mkdir()
    plant(tmp_path / "work" / name, tmp_path / "victim")
    with pytest.raises(UsageError, match=f"/{name}: is no plain file of one name.*remove it"):
        take(tmp_path / "work")
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_a_file_is_not_written_through_a_link_that_has_its_temporary_name(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("precious")
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(int=0))
    (tmp_path / "t.json.tmp-00000000").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        storage.write_json(str(tmp_path / "t.json"), {"a": 1})
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_is_written_replaces_a_link_and_not_its_target(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "report.html").symlink_to(tmp_path / "victim")
    with storage.open_output(str(tmp_path / "report.html")) as file:
        file.write(b"page")
    assert ((tmp_path / "victim").read_text(), (tmp_path / "report.html").read_text()) == ("precious", "page")


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


def test_an_empty_output_is_no_folder():
    with pytest.raises(UsageError, match="output: is empty; give a directory"):
        storage.check_writable("")


def test_a_table_whose_name_looks_like_a_pattern(tmp_path):
    folder = tmp_path / "x[1]"
    folder.mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "c[2].parquet")
    table = read_table(str(folder / "c[2].parquet"))
    assert (table.rows, table.shards[0].name) == (1, "c[2]")


def test_a_store_that_can_only_be_read_is_no_output():
    with pytest.raises(UsageError, match="http://host/out: cannot write there: this kind of store can only be read"):
        storage.check_writable("http://host/out")


def test_a_path_is_the_same_from_wherever_it_is_seen(tmp_path, monkeypatch):
    for name in ("run", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "data")
    inside = ["../run/a/b", "../run/./a/b", str(tmp_path / "run/a/b"), f"file://{tmp_path}/run/a/b"]
    for directory in ("../run", str(tmp_path / "run"), f"{tmp_path}/data/../run/"):
        assert {storage.relative(path, directory) for path in inside} == {"a/b"}
        assert {
            storage.relative(path, directory) for path in ("q.jsonl", "../data/q.jsonl", "../run/../data/q.jsonl")
        } == {str(tmp_path / "data" / "q.jsonl")}
    assert storage.relative("../runner/a", "../run") == str(tmp_path / "runner" / "a")


def test_a_store_that_cannot_be_asked_is_wrong_use(monkeypatch):
    def refuse(self, path):
        raise TimeoutError("the host said nothing")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.glob", refuse)
    with pytest.raises(UsageError, match=r"^runs/\*\.json: cannot be looked at: the host said nothing$"):
        storage.list_files("runs/*.json")


def test_below_no_directory_is_not_below_the_root():
    assert storage.join("", "run.json") == "run.json"
    assert storage.join("/", "run.json") == "/run.json"
    assert storage.join("http://host/a?b=c", "run.json") == "http://host/a/run.json?b=c"
