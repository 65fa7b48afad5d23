"""How trainers' programs are started, and what becomes of their exit codes and of them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipelines.runtime import trainers
from schemas.errors import StageError, UsageError

# Starts what it is told in a session of its own, and hands no open file on, as torchrun does.
LAUNCHER = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], start_new_session=True).returncode)
"""
# In the place of a trainer: says which process it is, and waits.
WAITS = """
import os, time
from training.command_line import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(100)
"""
COMMAND = """
import sys
from pipelines.runtime.trainers import run_trainer
run_trainer("inspector", [], launch=sys.argv[1])
"""


def test_a_trainers_data_stands_on_no_command_line(monkeypatch, capfd):
    commands, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **how: commands.append(command) or run(command, **how))
    url = "http://host/data?id=5&sig=SECRET"
    trainers.run_trainer("inspector", ["--output", "o", "--print-config"], url)
    assert commands == [[sys.executable, "-m", "training.inspector", "--output", "o", "--print-config"]]
    assert '"http://host/data?id=5&sig=***"  # --data' in capfd.readouterr().out


def test_a_launcher_takes_the_place_of_python(tmp_path, capfd):
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    launch = f"'{sys.executable}' '{tmp_path}/launcher.py'"
    trainers.run_trainer("inspector", ["--output", "o", "--print-config"], "shards", launch)
    printed = capfd.readouterr().out
    assert '"shards"  # --data' in printed
    assert '"o"  # --output' in printed


def test_a_launcher_is_looked_for_beside_python_too(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert trainers.launcher("torchrun --nproc-per-node 8") == [
        os.path.join(os.path.dirname(sys.executable), "torchrun"),
        "--nproc-per-node",
        "8",
    ]
    assert trainers.launcher("") == []


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (2, UsageError, "the aligner's trainer refused its settings"),
        (130, KeyboardInterrupt, None),
        (7, StageError, "the aligner's trainer ended with exit code 7"),
    ],
)
def test_exit_codes_say_what_went_wrong(code, error, message):
    with pytest.raises(error, match=message):
        trainers.run_trainer("aligner", [], launch=f"{sys.executable} -c 'raise SystemExit({code})'")


def test_what_a_launcher_started_ends_with_the_command(tmp_path):
    (tmp_path / "waits.py").write_text(WAITS)
    (tmp_path / "launcher.py").write_text(LAUNCHER.replace("*sys.argv[1:]", f"{str(tmp_path / 'waits.py')!r}"))
    launch = f"{sys.executable} {tmp_path}/launcher.py"
    command = subprocess.Popen([sys.executable, "-c", COMMAND, launch], stdout=subprocess.PIPE, text=True)
    trainer = int(command.stdout.readline())
    os.kill(trainer, 0)  # it is there
    command.send_signal(signal.SIGKILL)
    command.wait()
    for _ in range(600):
        try:
            os.kill(trainer, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(trainer, signal.SIGKILL)
    pytest.fail("the trainer outlived the command")
