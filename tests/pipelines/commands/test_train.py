"""Training one model: where its data comes from, what the trainer is told, what is refused before any work."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
import tiny_models
import yaml
from triples_to_curate import GOOD

from pipelines.commands import train
from pipelines.runtime import trainers
from pipelines.runtime.runs import open_run
from schemas.errors import StageError
from schemas.tables import TRIPLES
from transforms.tables.table import read_table
from transforms.tables.write import write_tables


def write(folder, table) -> str:
    write_tables(str(folder), {"triples": table}, {"stage": "made", "digest": "d"}, 99)
    return str(folder)


@pytest.fixture
def base(tmp_path) -> str:
    return str(tiny_models.encoder(tmp_path / "encoder"))


@pytest.fixture
def data(tmp_path) -> str:
    """A table of triples that nobody curated yet."""
    return write(tmp_path / "data", pa.Table.from_pylist(GOOD, TRIPLES))


@pytest.fixture
def told(monkeypatch) -> list:
    """What trainers are told, when they only note it."""
    noted: list = []

    def note(method, arguments, data="", launch=""):
        noted.append((method, data, launch, yaml.safe_load(Path(arguments[-1]).read_text())))

    monkeypatch.setattr(trainers, "run_trainer", note)
    return noted


def steps(folder) -> list[tuple[str, str]]:
    return [(stage.name, stage.status) for stage in open_run(f"{folder}").stages]


def test_triples_are_curated_and_made_shards_of_beside_the_output(tmp_path, data, base, told):
    flags = ["--data", data, "--output", f"{tmp_path}/model", "--base", base]
    assert train.main(["inspector", *flags, "--epochs", "2", "--launch", "torchrun -n 2"]) == 0
    assert steps(tmp_path / "model.data") == [("curated", "done"), ("shards", "done")]
    [(method, shards, launch, settings)] = told
    assert (method, launch, settings["epochs"], settings["seed"]) == ("inspector", "torchrun -n 2", 2.0, 42)
    assert shards == open_run(f"{tmp_path}/model.data").stage("shards").path == settings["data"]
    assert read_table(shards, "train").schema.names == ["id", "question", "answer", "label"]
    # Of what was curated, each trainer takes its own rows.
    curated = open_run(f"{tmp_path}/model.data").stage("curated").path
    assert train.main(["aligner", "--data", curated, "-o", f"{tmp_path}/other", "--base", base]) == 0
    assert steps(tmp_path / "other.data") == [("shards", "done")]
    assert read_table(told[1][1], "train").schema.names[2:4] == ["response", "correction"]
    # And shards are read where they are.
    assert train.main(["inspector", "--data", shards, "-o", f"{tmp_path}/third", "--base", base]) == 0
    assert told[2][1] == shards
    assert not (tmp_path / "third.data").exists()


def test_shards_may_lie_in_a_folder_of_the_trainers_name(tmp_path, base, told):
    (tmp_path / "curated" / "inspector" / "train").mkdir(parents=True)
    assert train.main(["inspector", "--data", f"{tmp_path}/curated", "-o", f"{tmp_path}/model", "--base", base]) == 0
    assert told[0][1] == f"{tmp_path}/curated/inspector"


def test_settings_come_from_a_file_and_flags_win(tmp_path, base, told, capsys):
    (tmp_path / "c.yaml").write_text(f"{{epochs: 3, batch_size: 2, base: {base}}}")
    (tmp_path / "shards" / "train").mkdir(parents=True)
    flags = [
        "--data",
        f"{tmp_path}/shards",
        "-o",
        f"{tmp_path}/model",
        "--config",
        f"{tmp_path}/c.yaml",
        "--epochs",
        "1",
    ]
    assert train.main(["inspector", *flags, "--print-config"]) == 0
    assert re.search(r"batch_size +2 +# .*c\.yaml", capsys.readouterr().out)
    assert told == []
    assert train.main(["inspector", *flags]) == 0
    assert (told[0][3]["epochs"], told[0][3]["batch_size"]) == (1.0, 2)


def test_a_trainer_that_fails_is_not_said_to_be_done(tmp_path, base, monkeypatch):
    def fail(*_, **__):
        raise StageError("the inspector's trainer ended with exit code 7")

    monkeypatch.setattr(trainers, "run_trainer", fail)
    (tmp_path / "shards" / "train").mkdir(parents=True)
    assert train.main(["inspector", "--data", f"{tmp_path}/shards", "-o", f"{tmp_path}/model", "--base", base]) == 1


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("inspector", ["--data", "{tmp}/absent"], "absent: neither training shards .* nor a table of triples"),
        ("inspector", ["--data", "{tmp}/questions"], "questions: has no column response, correction, as triples have"),
        ("inspector", ["--base", "{tmp}/none"], "none: no such model folder"),
        ("aligner", ["--lora-rnk", "4"], "unrecognized arguments: --lora-rnk 4"),
        ("aligner", ["--lora-rank", "-1"], "lora_rank = -1: must not be negative"),
        ("inspector", ["--report-to", "wandb"], "the package wandb is not installed"),
        ("inspector", ["--launch", "torchruns"], "there is no program 'torchruns'"),
        ("inspector", ["-o", "memory://model"], "output = 'memory://model': the trainers write to a local disk"),
        ("inspector", ["-o", "/proc/model"], "/proc: cannot write there"),
        ("squads", [], "invalid choice: 'squads'"),
    ],
)
def test_wrong_use_is_told_before_any_work(tmp_path, data, base, told, capsys, monkeypatch, method, change, message):
    monkeypatch.setattr("training.reporting.find_spec", lambda name: None)
    write(tmp_path / "questions", pa.Table.from_pylist(GOOD, TRIPLES).select(["id", "question"]))
    flags = ["--data", data, "--output", f"{tmp_path}/model", "--base", base]
    flags += [part.format(tmp=tmp_path) for part in change]
    try:
        code = train.main([method, *flags])
    except SystemExit as error:  # argparse's own
        code = error.code
    assert code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said
    assert (told, (tmp_path / "model.data").exists()) == ([], False)
