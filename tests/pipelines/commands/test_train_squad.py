"""Training a squad from curated data: what is trained, what is written, and what is refused before anything is."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
import tiny_models
import yaml

from pipelines.commands import train
from pipelines.runtime import trainers
from pipelines.runtime.runs import open_run
from schemas.squads import load_squad
from schemas.tables import TRIPLES
from transforms.engines.inspector import check_inspector
from transforms.engines.weights import find_weights
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

    def train_nothing(method, arguments, data="", launch=""):
        settings = yaml.safe_load(Path(arguments[-1]).read_text())
        noted.append((method, settings | {"data": data, "launch": launch}))
        Path(settings["output"]).mkdir()
        (Path(settings["output"]) / "metrics.json").write_text('{"rows": {"train": 8, "validation": 2}}')

    monkeypatch.setattr(trainers, "run_trainer", train_nothing)
    return noted


def test_every_criterion_gets_an_inspector_and_an_adapter_of_one_base(tmp_path, flags, trained):
    assert train.main(["squad", *flags, "--launch", "torchrun"]) == 0
    run = open_run(str(tmp_path / "squad"))
    names = [f"{criterion}/{step}" for criterion in ("kind", "calm") for step in ("inspector", "aligner")]
    assert [(stage.name, stage.status) for stage in run.stages] == [
        (name, "done") for name in ("kind/curated", "calm/curated", *names)
    ]
    folders = {stage.name: Path(stage.path).relative_to(tmp_path / "squad").as_posix() for stage in run.stages}
    assert [settings["output"] for _, settings in trained] == [f"{tmp_path}/squad/{folders[name]}" for name in names]
    assert [method for method, _ in trained] == ["inspector", "aligner"] * 2
    kind, calm = (settings for method, settings in trained if method == "aligner")
    assert (kind["adapter"], kind["lora_rank"], kind["base"]) == (True, 4, str(tmp_path / "base"))
    assert kind | {"data": "", "output": ""} == calm | {"data": "", "output": ""}
    inspector = trained[2][1]
    assert (inspector["base"], inspector["epochs"], inspector["launch"]) == (str(tmp_path / "encoder"), 1, "torchrun")
    squad = yaml.safe_load((tmp_path / "squad/squad.yaml").read_text())
    assert squad["routing"] == "worst"
    assert squad["members"] == [
        {"criterion": name, "inspector": folders[f"{name}/inspector"], "aligner": folders[f"{name}/aligner"]}
        for name in ("kind", "calm")
    ]
    assert load_squad(str(tmp_path / "squad/squad.yaml")).members[0].inspector == trained[0][1]["output"]


def test_what_was_curated_is_not_curated_again(tmp_path, flags, trained):
    assert train.main(["squad", *flags]) == 0
    [curated, _] = [stage.path for stage in open_run(str(tmp_path / "squad")).of_kind("curate")]
    again = ["--data", f"kind={curated}", *flags[4:-1], str(tmp_path / "other")]
    assert train.main(["squad", *again]) == 0
    assert [stage.name for stage in open_run(str(tmp_path / "other")).stages] == ["kind/inspector", "kind/aligner"]
    assert len(trained) == 6


def test_the_same_command_skips_what_is_trained_and_a_squad_file_that_was_edited_stays(tmp_path, flags, trained):
    assert train.main(["squad", *flags]) == 0
    path = tmp_path / "squad/squad.yaml"
    edited = "# mine\n" + path.read_text().replace("guard_margin: 0.0", "guard_margin: 0.1")
    path.write_text(edited)
    assert train.main(["squad", *flags]) == 0
    assert path.read_text() == edited
    assert len(trained) == 4


def test_of_an_edited_squad_file_the_folders_alone_follow_other_settings(tmp_path, flags, trained):
    assert train.main(["squad", *flags]) == 0
    path = tmp_path / "squad/squad.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"guard_margin": 0.1, "members": values["members"][::-1]}))
    (tmp_path / "aligner.yaml").write_text("{lora_rank: 8, max_tokens: 256}")
    assert train.main(["squad", *flags]) == 0
    assert [method for method, _ in trained] == ["inspector", "aligner"] * 2 + ["aligner"] * 2
    squad = load_squad(str(path))
    assert squad.guard_margin == 0.1
    assert [(member.criterion, member.inspector, member.aligner) for member in squad.members] == [
        ("calm", trained[2][1]["output"], trained[5][1]["output"]),
        ("kind", trained[0][1]["output"], trained[4][1]["output"]),
    ]


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
    assert "step" not in capfd.readouterr().out
    squad = load_squad(str(tmp_path / "squad/squad.yaml"))
    one, two = (find_weights(member.aligner) for member in squad.members)
    assert one.model == two.model == str((tmp_path / "base").resolve())
    assert [one.adapter, two.adapter] == [member.aligner for member in squad.members]
    assert one.digest != two.digest
    for member in squad.members:
        check_inspector(member.inspector)
