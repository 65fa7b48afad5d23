"""Losses that are sent somewhere: where TensorBoard's files lie, and what is asked for before any work."""

import sys
from importlib.util import find_spec

import pytest

from schemas.errors import UsageError
from training import inspector
from training.reporting import check_installed
from training.run_folder import TrainingRun

# Stands for TensorBoard, which transformers also finds under this name: a line of text for each number.
WRITER = """
import os


class SummaryWriter:
    def __init__(self, log_dir):
        os.makedirs(log_dir, exist_ok=True)
        self.path = os.path.join(log_dir, "events")

    def add_text(self, name, text):
        pass

    def add_scalar(self, name, value, step):
        with open(self.path, "a") as file:
            file.write(f"{step} {name}\\n")

    def flush(self):
        pass

    close = flush
"""


@pytest.fixture
def config(inspector_shards, bases, tmp_path):
    """A training of one epoch of three steps, with a stand-in for TensorBoard installed."""
    settings = {"base": str(bases["encoder"]), "max_tokens": 64, "epochs": 1}
    return inspector.Config(
        data=str(inspector_shards), output=str(tmp_path / "model"), report_to="tensorboard", **settings
    )


@pytest.fixture
def tensorboard(tmp_path, monkeypatch):
    (tmp_path / "tensorboardX.py").write_text(WRITER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    yield
    sys.modules.pop("tensorboardX", None)


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="the real one would be found first")
def test_tensorboards_files_stay_beside_the_model(config, tensorboard, tmp_path):
    inspector.train(config)
    lines = (tmp_path / "model.logs" / "events").read_text().splitlines()
    assert {"1 train/loss", "3 train/loss", "3 eval/auc"} <= set(lines)
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "model.training").exists()
    # Who looks at the losses trains the same model: nothing is trained again without them.
    assert "report_to" not in (tmp_path / "model" / "run.json").read_text()


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="the real one would be found first")
def test_tensorboards_files_go_where_its_own_variable_says(config, tensorboard, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "mine"))
    inspector.train(config)
    assert (tmp_path / "mine" / "events").is_file()
    assert not (tmp_path / "model.logs").exists()


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="the real one would be found first")
def test_tensorboards_files_are_written_through_no_link(config, tensorboard, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model.logs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"model\.logs: is no folder, or a link to one"):
        inspector.train(config)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_package_that_is_not_there_is_told_before_any_work(config, tmp_path, monkeypatch):
    monkeypatch.setattr("training.reporting.find_spec", lambda name: None)
    check_installed("none")
    with pytest.raises(UsageError, match="report_to = wandb: the package wandb is not installed; pip install wandb"):
        check_installed("wandb")
    monkeypatch.setattr(TrainingRun, "open", lambda *_: pytest.fail("this is work"))
    with pytest.raises(UsageError, match="pip install tensorboard"):
        inspector.train(config)


def test_a_word_that_names_no_place_is_refused(refusal, config):
    assert "report_to: Input should be 'none', 'tensorboard' or 'wandb'" in refusal(
        inspector.main, config, ["--report-to", "paper"]
    )
