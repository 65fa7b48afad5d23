"""`kill -9` of the whole process tree at random moments loses nothing, leaves nothing behind, and asks little twice."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests import killed_job, tiny_models

ROOT = Path(__file__).parent.parent
KILLS = 10
MARK = "ALIGNBEAM_TEST_KILL"
PLACES = ["harbour", "library", "market", "garden", "bridge", "school", "station", "museum", "theatre", "bakery"]


def start(output, log, mark):
    return start_command([sys.executable, "-m", "tests.killed_job", str(output), str(log)], mark)


def start_command(command, mark):
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill_tree(process):
    tree = [psutil.Process(process.pid)]
    tree += tree[0].children(recursive=True)
    for member in tree:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def left_behind(mark):
    """Processes that a killed run started and that are still there after a moment."""
    deadline = time.monotonic() + 10
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def tables(output):
    """The bytes of the final tables, by name."""
    files = [*output.glob("questions/*/questions/*.parquet"), *output.glob("triples/*/*/*.parquet")]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def sent(log):
    lines = log.read_text().split("\n") if log.exists() else []
    return [line.removeprefix("sent ") for line in lines if line.startswith("sent ")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_at_random_moments(tmp_path, teacher):
    started = time.monotonic()
    undisturbed = start(tmp_path / "undisturbed", tmp_path / "undisturbed.log", "undisturbed")
    _, errors = undisturbed.communicate()
    assert undisturbed.returncode == 0, errors.decode()[-2000:]
    seconds = time.monotonic() - started
    moments = random.Random(0)
    output, log = tmp_path / "killed", tmp_path / "killed.log"
    for kill in range(KILLS):
        process = start(output, log, f"kill-{kill}")
        time.sleep(moments.uniform(0.3, 0.9) * seconds)
        kill_tree(process)
        assert left_behind(f"kill-{kill}") == []
    last = start(output, log, "last")
    _, errors = last.communicate()
    assert last.returncode == 0, errors.decode()[-2000:]
    assert tables(output) == tables(tmp_path / "undisturbed")
    times = Counter(sent(log))
    assert set(times) == set(sent(tmp_path / "undisturbed.log"))
    again = sum(times.values()) - len(times)
    assert again <= KILLS * (killed_job.WINDOW_ROWS + killed_job.FLUSH_ROWS)
    assert max(Counter(sent(tmp_path / "undisturbed.log")).values()) == 1


def start_graph(output, home, mark):
    sets = [f"values.encoder={home / 'encoder'}", f"values.heldout={home / 'heldout.jsonl'}"]
    flags = [part for setting in sets for part in ("--set", setting)]
    recipe = str(ROOT / "tests" / "killed_graph.yaml")
    return start_command([sys.executable, "-m", "alignbeam", "run", recipe, "-o", str(output), *flags], mark)


def results(output):
    """The bytes of every table and every model of a run, by name."""
    kinds = [path for path in output.iterdir() if path.is_dir() and path.name not in ("cache", "steps")]
    files = [path for kind in kinds for path in kind.rglob("*") if path.suffix in (".parquet", ".safetensors")]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_whole_graph_killed_at_random_moments(tmp_path):
    tiny_models.encoder(tmp_path / "encoder")
    questions = [f"What should we do about the {place} near the old mill?" for place in PLACES]
    lines = "".join(json.dumps({"question": question}) + "\n" for question in questions)
    (tmp_path / "heldout.jsonl").write_text(lines, encoding="utf-8")
    started = time.monotonic()
    undisturbed = start_graph(tmp_path / "undisturbed", tmp_path, "undisturbed")
    _, errors = undisturbed.communicate()
    assert undisturbed.returncode == 0, errors.decode()[-2000:]
    seconds = time.monotonic() - started
    moments = random.Random(1)
    output = tmp_path / "killed"
    for kill in range(KILLS):
        process = start_graph(output, tmp_path, f"graph-{kill}")
        time.sleep(moments.uniform(0.1, 0.4) * seconds)
        kill_tree(process)
        assert left_behind(f"graph-{kill}") == []
    last = start_graph(output, tmp_path, "last")
    _, errors = last.communicate()
    assert last.returncode == 0, errors.decode()[-2000:]
    whole = results(tmp_path / "undisturbed")
    assert sum(name.endswith(".safetensors") for name in whole) == 6
    assert results(output) == whole
