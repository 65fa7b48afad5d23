"""What a Flink lacks is said before anything is sent there; the cluster itself is in tests/test_flink_cluster.py."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.subprocess_server import JavaJarServer

from pipelines.commands import align
from pipelines.runtime.beam import checked_options
from pipelines.runtime.flink import cancelled_if_interrupted, roomy_flink
from schemas.command_line import WRONG_USE
from schemas.errors import StageError, UsageError

FLINK = "--runner=FlinkRunner"


@pytest.fixture
def jar(tmp_path, monkeypatch):
    """A job server's jar; Beam's own place for such has none."""
    monkeypatch.setattr(JavaJarServer, "JAR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "job-server.jar"
    path.touch()
    return f"--flink_job_server_jar={path}"


@pytest.fixture
def answer():
    """A function that starts a server which gives this answer to every question; gives its address."""
    servers = []

    def start(code, body):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"--flink_master=127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_flink_in_process_has_room_to_sort_unless_it_was_configured(monkeypatch):
    monkeypatch.delenv("FLINK_CONF_DIR", raising=False)
    in_process = PipelineOptions([FLINK])
    with roomy_flink(in_process):
        folder = Path(os.environ["FLINK_CONF_DIR"])
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        assert settings["taskmanager"]["memory"]["managed"]["size"] == "2g"
    assert "FLINK_CONF_DIR" not in os.environ
    assert not folder.exists()
    for arguments in ([FLINK, "--flink_master=localhost:8081"], []):
        with roomy_flink(PipelineOptions(arguments)):
            assert "FLINK_CONF_DIR" not in os.environ
    monkeypatch.setenv("FLINK_CONF_DIR", "mine")
    with roomy_flink(in_process):
        assert os.environ["FLINK_CONF_DIR"] == "mine"


def test_a_cluster_that_does_not_answer_is_named_before_anything_is_written(tmp_path, jar, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "q", "response": "r"}')
    inspector = "scripted:tests.scripted_models:lengths"
    command = [str(rows), "--aligner", "a", "--inspector", inspector, "-o", str(tmp_path / "out")]
    assert align.main([*command, "--", FLINK, "--flink_master=localhost:1", jar]) == WRONG_USE
    assert "--flink_master=http://localhost:1: no Flink answers at this REST address" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("code", "body"), [(200, "<html>"), (200, "{}"), (200, "[1]"), (404, ""), (200, "null")])
def test_what_answers_must_be_a_flink(jar, answer, code, body):
    with pytest.raises(UsageError, match="no Flink answers at this REST address"):
        checked_options([FLINK, answer(code, body), jar])


def test_a_job_server_is_named_or_there_already_and_never_downloaded(tmp_path, jar, answer):
    master = answer(200, json.dumps({"flink-version": "1.19.3"}))
    uber = [FLINK, master, "--flink_submit_uber_jar"]
    with pytest.raises(UsageError, match="absent.jar: no such file"):
        checked_options([*uber, "--flink_job_server_jar=absent.jar"])
    with pytest.raises(UsageError, match=r"for Flink 1\.19 is not here.*-1\.19-.*--flink_job_server_jar=FILE"):
        checked_options(uber)
    with pytest.raises(UsageError, match=r"job server for Flink 1\.20 is not here"):
        checked_options([FLINK, "--flink_version=1.20", "--job_server_java_launcher=true"])
    assert checked_options([*uber, jar])
    name = str(JavaJarServer.path_to_beam_jar(":runners:flink:1.19:job-server:shadowJar")).rpartition("/")[2]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / name).touch()
    assert checked_options(uber)


def test_java_is_needed_only_where_the_job_server_runs_here(jar, answer):
    master = answer(200, json.dumps({"flink-version": "1.19.3"}))
    absent = "--job_server_java_launcher=no-such-java"
    with pytest.raises(UsageError, match="there is no no-such-java here; install Java"):
        checked_options([FLINK, jar, absent])
    assert checked_options([FLINK, master, "--flink_submit_uber_jar", jar, absent])
    assert checked_options([FLINK, "--job_endpoint=localhost:8099", absent])


def test_a_job_that_could_not_be_cancelled_is_named():
    options = PipelineOptions([FLINK, "--flink_master=localhost:1", "--job_name=mine"])
    with pytest.raises(StageError, match=r"http://localhost:1: job mine-[0-9a-f]{8} goes on; cancel it there"):
        interrupt(options)
    with pytest.raises(KeyboardInterrupt):
        interrupt(PipelineOptions([FLINK]))


def interrupt(options):
    with cancelled_if_interrupted(options):
        raise KeyboardInterrupt
