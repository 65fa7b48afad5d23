"""Training a squad from curated data: what is trained, what is written, and what is refused before anything is."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import tiny_models
import yaml

from pipelines.align import transform_of
from pipelines.commands import align, train, train_squad
from pipelines.runtime import trainers
from schemas.settings import Layer, resolve
from schemas.squads import load_squad
from schemas.tables import TRIPLES
from transforms.tables.identity import content_id
from transforms.tables.write import write_tables

NOUNS = "river house garden bridge market school library museum tower road".split()  # noqa: SIM905


def triples(folder, criterion, count=60) -> str:
    """A table of triples that nobody curated yet."""
    rows = []
    for number in range(count):
        words = f"the {NOUNS[number % 10]} and the {NOUNS[number // 10]} number {number}"
        rows.append(
            {
                "id": content_id(criterion, str(number)),
                "question_id": content_id("q", str(number)),
                "question": f"How do I treat {words}?",
                "question_type": "advice",
                "topic": NOUNS[number % 10],
                "criterion": criterion,
                "response": f"Shout at {words} until they stop.",
                "critique": "It breaks principle 1 (care).",
                "correction": f"Be kind to {words} and talk calmly.",
                "identity": False,
            }
        )
    write_tables(
        str(folder), {"triples": pa.Table.from_pylist(rows, TRIPLES)}, {"stage": "made", "digest": criterion}, 99
    )
    return str(folder)


@pytest.fixture
def flags(tmp_path):
    """The command for two criteria, a few steps each."""
    (tmp_path / "inspector.yaml").write_text("{epochs: 1, batch_size: 8, max_tokens: 48}")
    settings = {"lora_rank": 4, "max_steps": 2, "eval_steps": 2, "warmup_steps": 0, "batch_size": 2, "max_tokens": 256}
    (tmp_path / "aligner.yaml").write_text(yaml.safe_dump({**settings, "gradient_accumulation": 1}))
    given = {
        "--inspector-base": tiny_models.encoder(tmp_path / "encoder"),
        "--base": tiny_models.llama(tmp_path / "base"),
        "--inspector-config": tmp_path / "inspector.yaml",
        "--aligner-config": tmp_path / "aligner.yaml",
        "-o": tmp_path / "squad",
    }
    data = [f"{name}={triples(tmp_path / name, name)}" for name in ("kind", "calm")]
    return [part for item in data for part in ("--data", item)] + [str(p) for pair in given.items() for p in pair]


@pytest.fixture
def trained(monkeypatch):
    """Which trainers ran with what, when they only note it."""
    noted = []
    monkeypatch.setattr(train_squad, "run_trainer", lambda method, arguments: noted.append((method, arguments[-1])))
    return noted


def test_every_criterion_gets_an_inspector_and_an_adapter_of_one_base(tmp_path, flags, trained):
    assert train.main(["squad", *flags]) == 0
    folders = [path.removesuffix(".yaml").removeprefix(f"{tmp_path}/squad/") for _, path in trained]
    assert folders == ["kind/inspector", "kind/aligner", "calm/inspector", "calm/aligner"]
    settings = {method: yaml.safe_load(Path(path).read_text()) for method, path in trained}
    assert settings["aligner"]["adapter"] is True
    assert settings["aligner"]["lora_rank"] == 4
    assert settings["aligner"]["base"] == str(tmp_path / "base")
    assert settings["inspector"] == {
        "base": str(tmp_path / "encoder"),
        "batch_size": 8,
        "data": settings["inspector"]["data"],
        "epochs": 1,
        "max_tokens": 48,
        "output": str(tmp_path / "squad/calm/inspector"),
    }
    assert (Path(settings["inspector"]["data"]) / "train").is_dir()
    squad = yaml.safe_load((tmp_path / "squad/squad.yaml").read_text())
    assert squad["routing"] == "worst"
    assert squad["members"] == [
        {"criterion": name, "inspector": f"{name}/inspector", "aligner": f"{name}/aligner"} for name in ("kind", "calm")
    ]


def test_the_secret_of_a_data_url_reaches_the_trainer_and_no_file(tmp_path, flags, monkeypatch):
    url, told = "http://me:SECRET@host/data?sig=SECRET", []
    monkeypatch.setattr(train_squad, "shards_for", lambda *_: url)
    monkeypatch.setattr(train_squad.TrainingRun, "open", lambda *_: None)
    monkeypatch.setattr(train_squad, "run_trainer", lambda method, arguments: told.append(arguments[:2]))
    assert train.main(["squad", *flags]) == 0
    assert told == [["--data", url]] * 4
    written = "".join(path.read_text() for path in (tmp_path / "squad").rglob("*.yaml"))
    assert written.count("http://***@host/data?sig=***") == 4
    assert "SECRET" not in written


def test_a_trainers_data_stands_on_no_command_line(monkeypatch, capfd):
    commands, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **how: commands.append(command) or run(command, **how))
    url = "http://host/data?id=5&sig=SECRET"
    trainers.run_trainer("inspector", ["--data", url, "--output", "o", "--print-config"])
    assert commands == [[sys.executable, "-m", "training.inspector", "--output", "o", "--print-config"]]
    assert '"http://host/data?id=5&sig=***"  # --data' in capfd.readouterr().out


def test_a_squad_file_that_was_edited_stays(tmp_path, flags, trained):
    assert train.main(["squad", *flags]) == 0
    path = tmp_path / "squad/squad.yaml"
    path.write_text(path.read_text().replace("guard_margin: 0.0", "guard_margin: 0.1"))
    assert train.main(["squad", *flags]) == 0
    assert load_squad(str(path)).guard_margin == 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "data: give CRITERION=FOLDER"),
        (["--data", "kind"], "data: expected CRITERION=FOLDER, not 'kind'"),
        (["--data", "kind={data}", "--data", "kind={data}"], "data: a criterion is given twice: kind, kind"),
        (["--data", ".kind={data}"], "criterion: '.kind' is no name"),
        (["--data", "kind={tmp}/absent"], "absent: neither training shards .* nor a table of triples"),
        (["--data", "kind={tmp}/shards"], "shards: has the shards of one trainer; name their curate stage"),
        (["--data", "kind={data}", "--base", "{tmp}/none"], "none: no such model folder"),
        (["--data", "kind={data}", "--inspector-base", "{tmp}/none"], "none: no such model folder"),
        (["--data", "kind={data}", "--aligner-config", "{tmp}/bad.yaml"], "lora_rnk: unknown setting .did you mean"),
        (
            ["--data", "kind={data}", "--aligner-config", "{tmp}/taken.yaml"],
            "taken.yaml: base: are flags of train squad",
        ),
        (["--data", "kind={data}", "--aligner-config", "{tmp}/whole.yaml"], "lora_rank = 0: an adapter has one"),
        (["--data", "kind={data}", "-o", "memory://squad"], "the trainers write to a local disk"),
    ],
)
def test_wrong_use_is_told_before_anything_is_trained(tmp_path, flags, trained, capsys, change, message):
    (tmp_path / "shards" / "train").mkdir(parents=True)
    for name, text in (("bad", "lora_rnk: 4"), ("taken", "base: gpt2"), ("whole", "lora_rank: 0")):
        (tmp_path / f"{name}.yaml").write_text(text)
    given = flags[4:] + [part.format(tmp=tmp_path, data=tmp_path / "kind") for part in change]
    assert train.main(["squad", *given]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said
    assert not trained


def test_a_squad_of_other_criteria_is_not_written_over(tmp_path, flags, trained, capsys):
    assert train.main(["squad", *flags]) == 0
    trained.clear()
    assert train.main(["squad", *flags[2:]]) == 2
    assert "squad.yaml: is a squad of calm, kind; choose another output" in " ".join(capsys.readouterr().err.split())
    assert not trained


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_trained_is_a_squad_that_align_loads_and_the_same_command_skips_it(tmp_path, flags, capfd):
    assert train.main(["squad", *flags]) == 0
    capfd.readouterr()
    assert train.main(["squad", *flags]) == 0
    assert Counter(re.findall("is trained already", capfd.readouterr().out)) == {"is trained already": 4}
    given = {"corpus": "unread", "squad": str(tmp_path / "squad/squad.yaml"), "output": str(tmp_path / "run")}
    config = resolve(align.Config, [Layer("test", given)]).config
    one, two = transform_of(align.stage_settings(config)).members
    assert one.model.engine == two.model.engine
    assert one.model.engine.model == str((tmp_path / "base").resolve())
    assert [one.model.adapter, two.model.adapter] == [str(tmp_path / "squad" / n / "aligner") for n in ("kind", "calm")]
    (tmp_path / "aligner.yaml").write_text("{lora_rank: 8, max_tokens: 256}")
    assert train.main(["squad", *flags]) == 2
    assert "was trained with other settings" in capfd.readouterr().err
