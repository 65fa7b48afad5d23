"""A training run on disk, and the end of a trainer with its parent."""

import os
import subprocess
import sys

import pytest

from schemas.command_line import FAILED
from schemas.errors import UsageError
from training.command_line import LIFELINE
from training.run_folder import TrainingRun

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(1, flush=True)
input()
"""
WAIT = "from training.command_line import end_with_parent; import time; end_with_parent(); time.sleep(100)"


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    run = TrainingRun(tmp_path / "model", {"method": "inspector"})
    run.begin()
    run.begin()  # this process may: it goes on after a failure
    other = TrainingRun(tmp_path / "other", {"method": "inspector"})
    other.work.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(other.work / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    with pytest.raises(UsageError, match=r"other\.training: another process is training there"):
        other.begin()
    holder.communicate(b"\n")
    other.begin()


def test_a_trainer_ends_when_its_parent_has_gone():
    lifeline, held = os.pipe()
    trainer = subprocess.Popen(
        [sys.executable, "-c", WAIT], env=os.environ | {LIFELINE: str(lifeline)}, pass_fds=[lifeline]
    )
    with pytest.raises(subprocess.TimeoutExpired):
        trainer.wait(3)
    os.close(held)
    assert trainer.wait(60) == FAILED
    os.close(lifeline)
