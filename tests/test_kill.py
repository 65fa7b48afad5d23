"""`kill -9` of the whole process tree at random moments loses nothing, leaves nothing behind, and asks little twice."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests import killed_job

ROOT = Path(__file__).parent.parent
KILLS = 10
MARK = "ALIGNBEAM_TEST_KILL"


def start(output, log, mark):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.killed_job", str(output), str(log)],
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
