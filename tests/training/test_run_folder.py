"""A training run on disk, and the end of a trainer with its parent."""

import json
import os
import subprocess
import sys

import pytest

from schemas.command_line import FAILED
from schemas.errors import UsageError
from training.command_line import LIFELINE
from training.inspector import Config
from training.run_folder import TrainingRun, output_folder

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


def test_a_trainer_ends_when_its_parent_has_gone(tmp_path):
    os.mkfifo(tmp_path / "lifeline")
    held = os.open(tmp_path / "lifeline", os.O_RDWR)
    environment = os.environ | {LIFELINE: str(tmp_path / "lifeline")}
    trainer = subprocess.Popen([sys.executable, "-c", WAIT], env=environment)
    with pytest.raises(subprocess.TimeoutExpired):
        trainer.wait(3)
    os.close(held)
    assert trainer.wait(60) == FAILED
    late = subprocess.run([sys.executable, "-c", WAIT], env=environment, timeout=60)  # its parent has gone already
    assert late.returncode == FAILED


def test_a_training_writes_through_no_link(tmp_path):
    run = TrainingRun(tmp_path / "model", {"method": "inspector"})
    checkpoint = run.checkpoints / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "optimizer.pt").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine").write_text("mine")
    makers = {
        "checkpoints/checkpoint-4": lambda path: path.symlink_to(tmp_path / "elsewhere"),
        "checkpoints/checkpoint-2/trainer_state.json": lambda path: path.symlink_to(tmp_path / "mine"),
        "checkpoints/checkpoint-2/tokenizer.json": lambda path: path.hardlink_to(tmp_path / "mine"),
        "checkpoints/checkpoint-2/scheduler.pt": os.mkfifo,
        "model": lambda path: path.symlink_to(tmp_path / "elsewhere"),
    }
    for name, make in makers.items():
        make(run.work / name)
        with pytest.raises(UsageError, match=rf"{name}: is no plain file of one name.*remove it"):
            run.begin()
        assert not (run.work / "run.json").exists()
        (run.work / name).unlink()
    run.begin()


@pytest.mark.parametrize("name", ["model.training", "model.training/checkpoints"])
def test_folders_of_a_training_are_no_links(tmp_path, name):
    run = TrainingRun(tmp_path / "model", {"method": "inspector"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"{name}: is no "):
        run.begin()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_last_checkpoint_is_the_highest_number_that_is_whole(tmp_path):
    run = TrainingRun(tmp_path / "model", {"method": "inspector"})
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-best", "checkpoint-4-old"):
        (run.checkpoints / name).mkdir(parents=True)
        (run.checkpoints / name / "trainer_state.json").write_text(json.dumps({}))
    (run.checkpoints / "checkpoint-12").mkdir()
    assert run.last_checkpoint() == str(run.checkpoints / "checkpoint-10")


def test_a_model_lands_where_the_link_at_its_name_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to("disk")
    run = TrainingRun(output_folder(str(tmp_path / "model")), {"method": "inspector"})
    run.begin()
    run.publish([], {"auc": 1.0}, "card")
    assert (tmp_path / "model").is_symlink()
    assert json.loads((tmp_path / "disk" / "metrics.json").read_text()) == {"auc": 1.0}
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="loop: "):
        output_folder(str(tmp_path / "loop"))


def test_an_empty_mount_point_is_no_output(tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.ismount", lambda path: True)
    with pytest.raises(UsageError, match=f"{tmp_path}: is a mount point.*choose a folder in it"):
        output_folder(str(tmp_path))
    (tmp_path / "run.json").touch()
    assert output_folder(str(tmp_path)) == tmp_path  # a model that is done may be mounted


def test_links_are_followed_or_refused_before_any_work(tmp_path, monkeypatch):
    for name in ("base_digest", "data_digest", "manifest_digest"):
        monkeypatch.setattr(f"training.run_folder.{name}", lambda path: "digest")
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to("disk")
    config = Config(output=str(tmp_path / "model"), base="b", data="d")
    run = TrainingRun.open("inspector", config)
    assert run.output == tmp_path / "disk"
    run.begin()
    run.checkpoints.symlink_to(tmp_path)
    with pytest.raises(UsageError, match=r"disk\.training/checkpoints: is no plain file"):
        TrainingRun.open("inspector", config)


def test_a_training_is_known_by_what_decides_its_model(tmp_path, monkeypatch):
    for name in ("base_digest", "data_digest", "manifest_digest"):
        monkeypatch.setattr(f"training.run_folder.{name}", str.upper)
    config = Config(output=str(tmp_path / "model"), base="b", data="d", report_to="wandb")
    assert TrainingRun.open("inspector", config).identity == {
        "method": "inspector",
        "settings": {
            "learning_rate": 2e-5,
            "batch_size": 8,
            "gradient_accumulation": 1,
            "eval_batch_size": 32,
            "weight_decay": 0.01,
            "warmup_steps": 0,
            "max_tokens": 512,
            "bf16": None,
            "seed": 42,
            "epochs": 4.0,
        },
        "base": "B",
        "data": {"digest": "D", "manifest_digest": "D"},
        "processes": 1,
    }
