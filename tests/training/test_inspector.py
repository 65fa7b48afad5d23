"""The inspector's trainer with a tiny encoder: what it learns, keeps, resumes and refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from schemas.errors import StageError, UsageError
from schemas.tables import INSPECTOR_ROWS
from training import fit as shared
from training.inspector import Config, main, scores_of, train, validation_metrics
from transforms.engines.inspector import Inspector


@pytest.fixture
def config(inspector_shards, bases, tmp_path):
    """A run of four epochs of three steps that takes a second."""

    def make(**changes):
        settings = {
            "data": str(inspector_shards),
            "output": str(tmp_path / "inspector"),
            "base": str(bases["encoder"]),
            "learning_rate": 3e-3,
            "max_tokens": 64,
        }
        return Config(**settings | changes)

    return make


def test_it_learns_and_what_it_wrote_scores_as_the_trainer_said(config, inspector_shards, capsys):
    metrics = train(config(epochs=8))
    folder = Path(config().output)
    assert metrics["validation"]["auc"] > 0.9
    assert metrics == json.loads((folder / "metrics.json").read_text())
    test = pq.read_table(inspector_shards / "test").to_pydict()
    scores = Inspector(folder, device="cpu").score(test["question"], test["answer"])
    assert np.mean((scores - test["label"]) ** 2) == pytest.approx(metrics["test"]["brier"], abs=1e-5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "rows    train 24, validation 8, test 8"
    assert lines[3].startswith("step    8 rows, about ")
    assert lines[4] == "steps   3 an epoch, 24 in all"


def test_the_folder_holds_no_pickle_and_no_path_of_this_machine(config, tmp_path):
    train(config(epochs=1))
    folder = tmp_path / "inspector"
    assert sorted(path.suffix for path in folder.iterdir() if path.suffix not in (".json", ".md")) == [".safetensors"]
    for path in folder.glob("*[nd]"):
        assert str(tmp_path) not in path.read_text()
    card = (folder / "README.md").read_text()
    assert json.loads((folder / "run.json").read_text())["data"]["digest"] in card
    assert "base_model: encoder" in card
    assert "| learning rate | 0.003 |" in card
    assert "| auc |" in card
    assert not (tmp_path / "inspector.training").exists()


def test_the_same_command_again_trains_nothing_and_another_one_is_refused(config, capsys):
    first = train(config(epochs=1))
    capsys.readouterr()
    assert train(config(epochs=1)) == first
    assert capsys.readouterr().out.endswith("is trained already\n")
    with pytest.raises(UsageError, match=r"other settings \(epochs: 1.0 -> 2.0\)"):
        train(config(epochs=2))


def test_an_interrupted_run_goes_on_and_ends_with_the_same_weights(config, tmp_path, monkeypatch, capsys):
    train(config(output=str(tmp_path / "whole")))

    def interrupt(line, say=shared.say):
        say(line)
        if line.startswith("step 6/12  validation"):
            raise KeyboardInterrupt

    monkeypatch.setattr(shared, "say", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(config())
    assert not (tmp_path / "inspector").exists()
    # A checkpoint that was cut off while it was written must not be gone on from.
    (tmp_path / "inspector.training" / "checkpoints" / "checkpoint-6").mkdir()
    monkeypatch.undo()
    capsys.readouterr()
    with pytest.raises(UsageError, match=r"inspector\.training: was trained with other settings \(seed: 42 -> 1\)"):
        train(config(seed=1))
    train(config())
    assert "going on from checkpoint-3\n" in capsys.readouterr().out
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "inspector"))
    for name, weights in whole.items():
        np.testing.assert_allclose(resumed[name], weights, atol=1e-6, err_msg=name)


def test_accumulation_averages_the_loss_and_does_not_sum_it(config, tmp_path):
    losses = []
    for accumulation in (1, 3):
        metrics = train(
            config(epochs=1, gradient_accumulation=accumulation, output=str(tmp_path / f"out{accumulation}"))
        )
        losses.append(next(entry["loss"] for entry in metrics["history"] if "loss" in entry))
    assert losses == pytest.approx([0.69, 0.69], abs=0.1)


def test_equal_seeds_give_equal_weights_and_unequal_ones_do_not(config, tmp_path):
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        train(config(epochs=1, seed=seed, output=str(tmp_path / str(number))))
        weights.append(load_file(tmp_path / str(number) / "model.safetensors")["classifier.weight"])
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


def test_scores_and_selection_by_hand():
    class Prediction:
        predictions = np.array([[0.0, 0.0], [0.0, 2.0], [900.0, -900.0], [0.0, 1000.0]])
        label_ids = np.array([0, 1, 0, 1])

    scores = scores_of(Prediction.predictions)
    assert scores.tolist() == pytest.approx([0.5, 1 / (1 + np.exp(-2)), 0.0, 1.0])
    metrics = validation_metrics(Prediction)
    assert metrics["auc"] == 1.0
    assert metrics["accuracy"] == 0.75
    assert metrics["selection"] == pytest.approx(1 - 1e-6 * metrics["brier"], abs=1e-12)
    assert metrics["selection"] < 1


def test_minilm_gets_a_head_of_its_own(config, minilm, tmp_path):
    train(config(base=str(minilm), epochs=1, learning_rate=1e-4))
    assert 0 < Inspector(tmp_path / "inspector", device="cpu").score(["how do i learn"], ["ask for help"])[0] < 1
    assert "base_model: model" in (tmp_path / "inspector" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{tmp}/absent"], "absent: no such folder of training shards"),
        (["--base", "{tmp}"], "not a model folder: it has no config.json"),
        (["--base", "./absent"], "absent: no such model folder"),
        (["--base", "no such model"], "no such model: no such model folder"),
        (["--base", "nobody/nothing"], "base = 'nobody/nothing': cannot be loaded by AutoTokenizer"),
        (["--base", "{gpt2}"], "its tokenizer has no padding token"),
        (["--max-tokens", "512"], "max_tokens = 512: this base reads 64 tokens"),
        (["--learning-rate", "0"], "learning_rate = 0.0: must be above 0"),
        (["--learning-rate", "fast"], "learning_rate: .*valid number.*--learning-rate"),
        (["--set", "learningrate=1"], "did you mean 'learning_rate'"),
        (["--config", "{tmp}/absent.yaml"], "absent.yaml: no such file"),
        (["--output", "{tmp}/shards"], "shards: is there and is no training run"),
        (["--output", "/proc/inspector"], "cannot write there"),
    ],
)
def test_wrong_use_is_named_before_any_work(config, bases, refusal, tmp_path, arguments, message):
    given = [argument.format(tmp=tmp_path, gpt2=bases["gpt2"]) for argument in arguments]
    assert re.search(f"^error: (.|\n)*{message}", refusal(main, config(), given))
    assert not (tmp_path / "inspector.training").exists()


def test_both_labels_are_needed(config, write_shards, tmp_path):
    rows = [{"id": str(i), "question": "q", "answer": "a", "label": i % 2} for i in range(4)]
    ones = [{**row, "label": 1} for row in rows]
    folder = write_shards({"train": rows, "validation": ones}, INSPECTOR_ROWS, "one-sided")
    with pytest.raises(UsageError, match=r"data/validation: labels \[1\]"):
        train(config(data=str(folder)))


def test_settings_come_from_a_file_and_flags_win(config, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("epochs: 3\nseed: 5\noutput: x\n")
    assert main(["--config", str(tmp_path / "c.yaml"), "--data", "d", "--set", "seed=6", "--print-config"]) == 0
    printed = capsys.readouterr().out
    for line in (r"epochs +3\.0 +# .*c\.yaml", r"seed +6 +# --set", r"base .*bert-base-uncased.* # default"):
        assert re.search(line, printed)


def test_a_model_that_diverges_fails_by_name_and_leaves_no_output(config, tmp_path):
    with pytest.raises(StageError, match="not finite any more; lower learning_rate"):
        train(config(learning_rate=1e30))
    assert not (tmp_path / "inspector").exists()


@pytest.mark.slow
def test_two_processes_train_one_model(config, tmp_path):
    settings = config(epochs=1)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "training.inspector"]
    for name in ("data", "output", "base", "max_tokens", "epochs", "learning_rate"):
        command += ["--" + name.replace("_", "-"), str(getattr(settings, name))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "step    16 rows" in done.stdout
    assert done.stdout.count("validation AUC") == 1
    metrics = json.loads((tmp_path / "inspector" / "metrics.json").read_text())
    assert metrics["steps"] == 2
    first_loss = next(entry["loss"] for entry in metrics["history"] if "loss" in entry)
    assert first_loss == pytest.approx(0.69, abs=0.1)
