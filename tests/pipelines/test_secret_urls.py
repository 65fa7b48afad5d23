"""A corpus behind a URL with secrets: it is read, and the secrets are written and printed nowhere."""

import gzip
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pipelines import evaluate, ingest
from pipelines.commands import align, check
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import Place, PlannedStep
from pipelines.runtime.steps import alone, check_outside
from schemas.errors import UsageError
from schemas.settings import Layer, config_text, resolve
from transforms.tables import storage
from transforms.tables.table import read_table

ROWS = b'{"question": "q", "response": "r"}\n{"question": 1, "response": "r"}\n'
ENGINE = "engine={engine: scripted, args: {function: 'tests.scripted_models:aligner'}}"
MODELS = ["--aligner", "a", "--inspector", "scripted:tests.scripted_models:lengths", "--criterion", "c"]


class Corpus(BaseHTTPRequestHandler):
    """One file, for those who have a signature or a password."""

    def do_GET(self):
        parts = urlsplit(self.path)
        signed = parse_qs(parts.query).get("sig", [""])[0].startswith("secret/")
        password = self.headers["Authorization"] == f"Basic {b64encode(b'me:secretword').decode()}"
        is_there = parts.path == "/data/corpus.jsonl.gz" and (signed or password)
        data = gzip.compress(ROWS, mtime=0) if is_there else b""
        self.send_response(200 if is_there else 403)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", "one")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def host():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Corpus)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{http.server_address[1]}"
    http.shutdown()
    http.server_close()


def written_below(folder: Path) -> str:
    """Names and content of all files, those of tables as Python shows it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    tables = [str(read_table(str(path.parent), name).to_arrow().to_pydict())
              for path in folder.rglob("manifest.json")
              for name, table in storage.read_json(str(path))["tables"].items() if table["shards"]]  # fmt: skip
    return "\n".join(
        [
            *(str(path.relative_to(folder)) for path in files),
            *(path.read_bytes().decode("latin-1") for path in files),
            *tables,
        ]
    )


@pytest.mark.parametrize("kind", ["signed", "password"])
def test_it_is_read_and_written_down_without_them(host, kind, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = f"{host}/data/corpus.jsonl.gz"
    url = f"http://{path}?sig=secret/1&id=5" if kind == "signed" else f"http://me:secretword@{path}"
    assert check.main([url]) == 3
    assert align.main([url, *MODELS, "--set", ENGINE, "-o", "out"]) == 3
    assert align.main([url.replace("secret/1", "secret/2"), *MODELS, "--set", ENGINE, "-o", "out"]) == 3
    assert align.main([url, *MODELS, "--set", ENGINE, "-o", "out", "--print-config"]) == 0
    [aligned] = (tmp_path / "out" / "align").rglob("aligned/*.parquet")
    assert aligned.name == "corpus.jsonl.gz.parquet"
    shown = path + "?sig=***&id=5" if kind == "signed" else "***@" + path
    written = written_below(tmp_path / "out")
    assert f"'source': ['http://{shown}']" in written  # of the reject
    assert storage.read_json("out/run.json")["stages"][0]["identity"]["corpus"] == f"http://{shown}"
    assert "secret" not in written
    out, err = capfd.readouterr()
    assert f'"http://{shown}"' in out
    assert "secret" not in out + err


def test_a_url_that_is_signed_anew_is_the_same_corpus(host, tmp_path):
    def imported(signature: str, **settings: str) -> Stage:
        url = f"http://{host}/data/corpus.jsonl.gz?sig=secret/{signature}"
        return ingest.import_into(ingest.Config(corpus=url, **settings), str(tmp_path / "out"))

    first = imported("1")
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    second = imported("2")
    assert (second.digest, second.inputs) == (first.digest, first.inputs)
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before


def test_errors_and_printed_settings_have_no_secret(host, tmp_path, capsys):
    url = f"http://{host}/nothing.jsonl?sig=secret"
    assert ingest.main([url, "-o", str(tmp_path / "out")]) == 2
    assert align.main(["--config", f"http://{host}/nothing.yaml?sig=secret"]) == 2
    engine = {"engine": "server", "model": "m", "base_url": "https://me:secret@host/v1?api-key=secret"}
    given = {"corpus": url, "output": "sftp://me:secret@host/out", "aligner": ["a"], "inspector": ["i"]}
    printed = config_text(resolve(align.Config, [Layer(f"{url}&x=secret", given | {"engine": engine})]))
    assert '"https://***@host/v1?api-key=***"' in printed
    text = "".join(capsys.readouterr()) + printed
    assert text.count("sig=***") >= 3
    assert "secret" not in text


@pytest.mark.parametrize("url", ["http://me:secret@host/models/judge", "http://host/models/judge?sig=secret"])
def test_a_model_at_a_url_is_no_folder_and_names_no_secret(url, tmp_path, capsys):
    planned = PlannedStep("evaluation", evaluate.KIND, evaluate.Config(aligned="", inspectors={"judge": url}))
    said = r": inspectors\.judge: http://.*\*\*\*.*: no such model folder; .* are local folders$"
    with pytest.raises(UsageError, match=said) as refused:
        check_outside([alone(planned)], Place(str(tmp_path)))
    assert "secret" not in str(refused.value)
    twice = ["--aligner", "a", "--inspector", url] * 2
    assert align.main(["c.jsonl", "-o", str(tmp_path / "out"), *twice]) == 2
    assert "criterion: two share a name: judge, judge;" in " ".join(capsys.readouterr().err.split())
