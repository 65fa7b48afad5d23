"""Ctrl-C in the middle of a stage: one line, exit code 130, and the same command goes on from there."""

import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from schemas.tables import QUESTIONS
from transforms.tables.identity import content_id
from transforms.tables.table import read_manifest
from transforms.tables.write import write_tables

ROWS = 240


@pytest.fixture
def questions(tmp_path):
    rows = [
        {"id": content_id(str(row)), "question": f"What of number {row}, please?", "question_type": "t", "topic": "T"}
        | {"criterion": "ethical", "origin": "generated", "round": 1}
        for row in range(ROWS)
    ]
    write_tables(str(tmp_path / "questions"), {"questions": pa.Table.from_pylist(rows, QUESTIONS)}, {"digest": "x"}, 64)
    return tmp_path / "questions"


def start(root, tmp_path, questions):
    engine = (
        "engine={engine: scripted, args: {function: 'tests.scripted_models:teacher', delay_seconds: 0.1, threads: 2}}"
    )
    command = [
        "pipelines.triples",
        str(questions),
        "--criterion",
        "ethical",
        "--model",
        "m",
        "-o",
        str(tmp_path / "run"),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", *command, "--set", engine],
        cwd=root,
        env=os.environ | {"ALIGNBEAM_TEST_LOG": str(tmp_path / "log")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a script starts with `&`
    )


def asked(tmp_path):
    path = tmp_path / "log"
    return path.read_text().split() if path.exists() else []


def test_ctrl_c_loses_nothing(root, tmp_path, questions):
    process = start(root, tmp_path, questions)
    deadline = time.monotonic() + 120
    while len(asked(tmp_path)) < ROWS // 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted: what was done is kept" in errors
    assert "Traceback" not in errors
    before = len(asked(tmp_path))
    assert before < ROWS
    again = start(root, tmp_path, questions)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert read_manifest(str(next((tmp_path / "run" / "triples").iterdir())))["counts"]["in"] == ROWS
    assert len(asked(tmp_path)) <= ROWS + 4  # at most those in flight were asked twice
