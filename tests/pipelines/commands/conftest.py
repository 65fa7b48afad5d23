"""Runs of recipes with scripted models, and trainers that train nothing."""

import pytest
from recipe_runs import LOG, Runs, Trainer

from pipelines.report import page
from pipelines.runtime import trainers


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Runs:
    """A recipe of questions and triples, and a log of what its models are asked."""
    monkeypatch.setenv("ALIGNBEAM_TEST_LOG", str(tmp_path / LOG))
    monkeypatch.setattr(page, "page", lambda *_: "<html>")  # is written all the same, as the file beside run.json
    return Runs(tmp_path)


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    """What takes the place of the trainers' programs."""
    stand_in = Trainer()
    monkeypatch.setattr(trainers, "run_trainer", stand_in)
    return stand_in
