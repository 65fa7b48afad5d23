"""The life of a training, with a model of one weight: interrupted, resumed, published; and the settings of all."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from schemas.errors import StageError
from schemas.settings import to_dict
from training import aligner, fit, inspector
from training.card import Card
from training.run_folder import TrainingRun

CARD = Card(title="Line", summary="y from x.", use="By hand.", base="nothing", pipeline_tag="regression")


class Line(torch.nn.Module):
    """y = slope * x."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(1))
        self.steps = 0  # that this process trained

    def forward(self, x, labels):
        self.steps += self.training
        y = self.slope * x
        return {"loss": ((y - labels) ** 2).mean(), "logits": y}

    def save_pretrained(self, folder):
        save_file({"slope": self.slope.data}, folder / "model.safetensors")


class Words:
    """Stands for a tokenizer; its disk is full as often as `failures` says."""

    def __init__(self, failures=0):
        self.failures = failures

    def save_pretrained(self, folder):
        if "checkpoint" not in str(folder) and self.failures:
            self.failures -= 1
            raise OSError("no space left on device")


def train_line(folder, words=None, **more):
    """Train y = 3x for six steps with an evaluation every two, and publish `folder`."""
    run = TrainingRun(
        folder,
        {"method": "line", "settings": {"seed": 1}, "data": {"digest": "d1", "manifest_digest": None}, "processes": 1},
    )
    settings = fit.TrainerSettings(
        data="", output=str(folder), base="nothing", learning_rate=0.5, batch_size=2, max_tokens=1, seed=1
    )
    datasets = {
        split: Dataset.from_dict({"x": values, "labels": [3 * x for x in values]})
        for split, values in {"train": [1.0, 2.0, 3.0, 4.0, 5.0], "validation": [6.0, 7.0]}.items()
    }
    fit.start(settings.seed)
    arguments = fit.training_arguments(
        TrainingArguments,
        run,
        settings,
        len(datasets["train"]),
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        metric_for_best_model="loss",
    )
    trainer = Trainer(
        model=Line(),
        args=arguments,
        train_dataset=datasets["train"],
        eval_dataset=datasets["validation"],
        processing_class=words or Words(),
    )
    metrics = fit.fit(
        run,
        trainer,
        datasets,
        tokens_per_row=1.5,
        measure=lambda trainer, dataset: {"loss": trainer.evaluate(dataset)["eval_loss"], "rows": len(dataset)},
        card=CARD,
        **more,
    )
    return run, metrics, trainer.model.steps


def slope(folder):
    return load_file(folder / "model.safetensors")["slope"].item()


def test_what_is_published_is_what_was_trained_and_measured(tmp_path, capsys):
    run, metrics, _ = train_line(tmp_path / "line", description={"x": "1 to 5"}, facts={"kind": "straight"})
    assert capsys.readouterr().out.splitlines()[:5] == [
        "base    nothing, 0.0M parameters, 0.0M of them trained",
        "rows    train 5, validation 2",
        "x       1 to 5",
        "step    2 rows, about 3 tokens, 1 processes",
        "steps   3 an epoch, 6 in all",
    ]
    loss = (metrics["validation"]["loss"] / 42.5) ** 0.5  # 42.5 is the mean of 6 x 6 and 7 x 7
    assert abs(slope(run.output) - 3) == pytest.approx(loss, abs=1e-4)
    assert {name: metrics[name] for name in ("method", "rows", "steps", "tokens_per_step", "parameters", "kind")} == {
        "method": "line",
        "rows": {"train": 5, "validation": 2},
        "steps": 6,
        "tokens_per_step": 3.0,
        "parameters": 1,
        "kind": "straight",
    }
    assert json.loads((run.output / "metrics.json").read_text()) == metrics
    assert json.loads((run.output / "run.json").read_text()) == run.identity
    assert "# Line\n\ny from x.\n" in (run.output / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line"]


def test_only_evaluations_while_training_are_printed_and_kept_as_history(tmp_path, capsys):
    _, metrics, _ = train_line(tmp_path / "line")
    lines = [line for line in capsys.readouterr().out.splitlines() if "  validation  " in line]
    assert [line.partition("  ")[0] for line in lines] == ["step 2/6", "step 4/6", "step 6/6"]
    assert [entry["step"] for entry in metrics["history"] if "eval_loss" in entry] == [2, 4, 6]


def test_a_finished_run_is_said_to_be_one(tmp_path, capsys):
    run, metrics, _ = train_line(tmp_path / "line")
    capsys.readouterr()
    assert fit.finished_metrics(run) == metrics
    assert capsys.readouterr().out == f"{tmp_path}/line: is trained already\n"
    assert fit.finished_metrics(TrainingRun(tmp_path / "another", {})) is None
    assert capsys.readouterr().out == ""


def test_an_interrupted_training_goes_on_and_publishes_the_same_weights(tmp_path, monkeypatch, capsys):
    train_line(tmp_path / "whole")

    def interrupt(line, say=fit.say):
        say(line)
        if line.startswith("step 4/6  validation"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "say", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_line(tmp_path / "line")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line.training", "whole"]
    capsys.readouterr()
    _, _, steps = train_line(tmp_path / "line")
    assert "going on from checkpoint-2\n" in capsys.readouterr().out
    assert steps == 4
    assert slope(tmp_path / "line") == slope(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line", "whole"]


def test_a_failed_publish_leaves_no_half_model_and_loses_no_training(tmp_path, capsys):
    train_line(tmp_path / "whole")
    words = Words(failures=1)
    with pytest.raises(StageError, match="line: the trained model cannot be written: no space left on device"):
        train_line(tmp_path / "line", words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line.training", "whole"]
    capsys.readouterr()
    run, metrics, steps = train_line(tmp_path / "line", words)
    assert "going on from checkpoint-6\n" in capsys.readouterr().out
    assert (steps, metrics["steps"]) == (0, 6)
    assert slope(run.output) == slope(tmp_path / "whole")
    assert sorted(path.name for path in run.output.iterdir()) == [
        "README.md",
        "metrics.json",
        "model.safetensors",
        "run.json",
    ]


def test_a_trainer_may_publish_something_else_than_it_trained(tmp_path):
    class Half(Line):
        def save_pretrained(self, folder):
            save_file({"slope": self.slope.data / 2}, folder / "model.safetensors")

    def halved(model):
        half = Half()
        half.load_state_dict(model.state_dict())
        return half

    train_line(tmp_path / "whole")
    train_line(tmp_path / "half", to_publish=halved)
    assert slope(tmp_path / "half") == slope(tmp_path / "whole") / 2


@pytest.mark.parametrize(("processes", "a_step", "an_epoch", "in_all"), [(1, 8, 2, 5), (2, 16, 1, 3)])
def test_steps_are_counted_as_the_trainer_counts_them(monkeypatch, processes, a_step, an_epoch, in_all):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    arguments = SimpleNamespace(
        per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=-1, num_train_epochs=2.5
    )
    assert fit.rows_per_step(arguments) == a_step
    assert fit.steps_per_epoch(arguments, 10) == an_epoch
    assert fit.total_steps(arguments, 10) == in_all
    arguments.max_steps = 7
    assert fit.total_steps(arguments, 10) == 7


def test_a_trainers_own_arguments_win(tmp_path):
    settings = fit.TrainerSettings(data="", output="", base="", learning_rate=1e-3, max_tokens=1)
    run = TrainingRun(tmp_path / "line", {})
    own = {"max_steps": 600, "weight_decay": 0.5, "load_best_model_at_end": False}
    arguments = fit.training_arguments(TrainingArguments, run, settings, 10, **own)
    assert (arguments.weight_decay, arguments.load_best_model_at_end) == (0.5, False)
    assert (arguments.learning_rate, arguments.logging_steps) == (1e-3, 3)


SHARED = {"data": "d", "output": "o", "weight_decay": 0.01, "bf16": None, "seed": 42, "report_to": "none"}


def test_the_defaults_by_which_a_finished_training_is_known():
    assert to_dict(inspector.Config(data="d", output="o")) == {
        **SHARED,
        "base": "bert-base-uncased",
        "learning_rate": 2e-5,
        "batch_size": 8,
        "gradient_accumulation": 1,
        "eval_batch_size": 32,
        "epochs": 4.0,
        "warmup_steps": 0,
        "max_tokens": 512,
    }
    assert to_dict(aligner.Config(data="d", output="o")) == {
        **SHARED,
        "base": "gpt2-large",
        "learning_rate": 1e-5,
        "batch_size": 1,
        "gradient_accumulation": 16,
        "eval_batch_size": 8,
        "max_steps": 2150,
        "eval_steps": 50,
        "eval_rows": 1000,
        "warmup_steps": 100,
        "max_tokens": 1024,
        "gradient_checkpointing": False,
        "lora_rank": 0,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "adapter": False,
    }


@pytest.mark.parametrize(
    ("config_class", "name"),
    [
        *((inspector.Config, name) for name in ("batch_size", "eval_batch_size", "max_tokens", "epochs")),
        *((aligner.Config, name) for name in ("gradient_accumulation", "max_steps", "eval_steps", "eval_rows")),
    ],
)
def test_settings_of_all_and_of_one_trainer_are_checked(config_class, name):
    with pytest.raises(ValueError, match=f"{name} = 0: must be above 0"):
        config_class(data="d", output="o", **{name: 0})
