"""Aligning with a squad file from end to end, with scripted models: routing, orders, what is refused before work."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import align as stage_alone
from pipelines import score
from pipelines.commands import align, check
from pipelines.commands.conflicts import Conflicts
from schemas.command_line import DONE, WRONG_USE
from schemas.errors import UsageError
from schemas.settings import Layer, resolve
from schemas.squads import load_squad
from schemas.tables import RESPONSES
from transforms.tables.write import write_tables

ALIGNER = {"engine": "scripted", "args": {"function": "tests.scripted_models:aligner"}}
LONG = {"criterion": "long", "inspector": "scripted:tests.scripted_models:lengths", "aligner": "x", "engine": ALIGNER}
OPEN = {"criterion": "open", "inspector": "scripted:tests.scripted_models:vowels", "aligner": "y", "engine": ALIGNER}


def squad_file(tmp_path, members=(LONG, OPEN), **settings) -> str:
    path = tmp_path / "squad.yaml"
    path.write_text(yaml.safe_dump({"members": list(members), **settings}))
    return str(path)


def corpus(tmp_path, count=100) -> str:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"q{n}?", "response": "bcd" * (n % 40 + 1) + "aei" * (n % 7)} for n in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def config(tmp_path, source, squad, **settings):
    given = {"corpus": source, "squad": squad, "output": str(tmp_path / "run"), **settings}
    return resolve(align.Config, [Layer("test", given)]).config


def aligned(config):
    """The stage that the command does last."""
    return align.align_corpus(config)[-1]


def test_rows_go_to_the_worst_criterion_until_all_are_met_or_nothing_helps(tmp_path):
    stage = aligned(config(tmp_path, corpus(tmp_path), squad_file(tmp_path, rounds=3)))
    steps = stage.table("trajectories").to_arrow().to_pylist()
    by_row = {}
    for step in steps:
        by_row.setdefault(step["row"], []).append(step)
    for row in by_row.values():
        assert [step["step"] for step in row] == [0, 1, 2, 3]
        for before, after in itertools.pairwise(row):
            scores = dict(before["scores"])
            if after["member"]:
                unmet = {name: score for name, score in scores.items() if score < 0.5}
                assert after["member"] in unmet
            if after["decision"] == "rewritten":
                assert dict(after["scores"])[after["member"]] > scores[after["member"]]
    assert {step["decision"] for step in steps} >= {"rewritten", "refused", "not_asked"}
    rows = stage.table("aligned").to_arrow().to_pylist()
    assert len(rows) == 100
    assert all(set(row["scores_after"]) == {"long", "open"} for row in rows)


@pytest.mark.parametrize("routing", ["fixed", "corpus-mean", "paper-002"])
def test_each_member_has_one_turn_in_order(tmp_path, routing):
    stage = aligned(config(tmp_path, corpus(tmp_path), squad_file(tmp_path, routing=routing)))
    steps = [step for step in stage.table("trajectories").to_arrow().to_pylist() if step["member"]]
    first = {step["member"] for step in steps if step["step"] == 1}
    if routing == "fixed":
        assert first == {"long"}
    else:
        rows = stage.table("aligned").to_arrow().to_pylist()
        means = {name: np.mean([row["scores_before"][name] for row in rows]) for name in ("long", "open")}
        if routing == "corpus-mean":
            assert first == {min(means, key=means.get)}


def test_a_plan_shows_what_members_do_to_each_other(tmp_path, capsys):
    assert align.run(config(tmp_path, corpus(tmp_path), squad_file(tmp_path), plan=True)) == DONE
    said = " ".join(capsys.readouterr().err.split())
    assert "mean change over 64 rows" in said
    assert "suggested order" in said
    assert not list((tmp_path / "run").glob(".plan-*"))


@pytest.mark.parametrize(
    ("change_MM", "order"),
    [
        ([[0.5, -0.3], [0.1, 0.5]], ("long", "open")),  # long harms open, which comes after it
        ([[0.5, 0.1], [-0.3, 0.5]], ("open", "long")),
        ([[0.5, 0.1], [0.3, 0.5]], ("open", "long")),  # none harms; open helps more
        ([[0.5, 0.0], [0.0, 0.9]], ("long", "open")),
    ],
)
def test_those_that_harm_others_are_suggested_first(change_MM, order):
    nothing = np.zeros(2)
    seen = Conflicts(("long", "open"), 64, np.array(change_MM), before_M=nothing, after_M=nothing, unmet=0.0)
    assert seen.order == order


def test_a_squad_file_is_checked_before_work(tmp_path):
    with pytest.raises(UsageError, match="members: 1 and 2 have one criterion, 'long'"):
        load_squad(squad_file(tmp_path, (LONG, LONG)))
    with pytest.raises(UsageError, match=r"members.0.treshold: unknown setting .did you mean .threshold"):
        load_squad(squad_file(tmp_path, ({**LONG, "treshold": 0.4},)))
    with pytest.raises(UsageError, match="rounds: must be positive, and is for routing worst alone"):
        load_squad(squad_file(tmp_path, routing="fixed", rounds=2))
    with pytest.raises(UsageError, match="pack: a prompted aligner needs one"):
        load_squad(squad_file(tmp_path, ({**LONG, "aligner": "prompted"},)))
    missing = squad_file(tmp_path, ({**LONG, "inspector": str(tmp_path / "none")}, OPEN))
    with pytest.raises(UsageError, match="long: .*none: no such model folder"):
        aligned(config(tmp_path, corpus(tmp_path), missing))
    with pytest.raises(UsageError, match="aligner: stands in the squad file"):
        config(tmp_path, "x", squad_file(tmp_path), aligner=("a",))
    assert align.main([corpus(tmp_path), "--squad", str(tmp_path / "absent.yaml"), "-o", "x"]) == WRONG_USE


def test_check_tells_what_a_squad_file_is(tmp_path, capsys):
    assert check.main([squad_file(tmp_path)]) == DONE
    said = " ".join(capsys.readouterr().err.split())
    assert "a squad, routing worst: long (served " in said
    missing = squad_file(tmp_path, ({**LONG, "inspector": str(tmp_path / "none")}, OPEN))
    assert check.main([missing]) == WRONG_USE
    assert "long: " in capsys.readouterr().err


def adapter(folder, base):
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base), "r": 8}))
    return str(folder)


def test_adapters_share_the_engine_of_one_base(tmp_path):
    bases = [tmp_path / "base", tmp_path / "other"]
    for base in bases:
        base.mkdir()
        (base / "model.safetensors").write_bytes(b"")
        (base / "config.json").write_text("{}")
    plain = [{name: member[name] for name in ("criterion", "inspector")} for member in (LONG, OPEN)]
    one, two = adapter(tmp_path / "one", bases[0]), adapter(tmp_path / "two", bases[0])
    good = squad_file(tmp_path, [plain[0] | {"aligner": "one"}, plain[1] | {"aligner": "two"}])
    settings = config(tmp_path, "x", good)
    members = stage_alone.transform_of(align.stage_settings(settings)).members
    assert members[0].model.engine == members[1].model.engine
    assert members[0].model.engine.adapters == (one, two)
    assert [member.model.adapter for member in members] == [one, two]
    adapter(tmp_path / "three", bases[1])
    bad = squad_file(tmp_path, [plain[0] | {"aligner": "one"}, plain[1] | {"aligner": "three"}])
    settings = config(tmp_path, "x", bad)
    with pytest.raises(UsageError, match=r"open: its adapter's base is .*other, that of long is .*base"):
        stage_alone.transform_of(align.stage_settings(settings))


def shards(tmp_path, *parts) -> str:
    """A table whose shards hold these rows, some of them none."""
    folder = tmp_path / "table"
    tables = {"responses": pa.Table.from_pylist([row for part in parts for row in part], RESPONSES)}
    write_tables(str(folder), tables, {"stage": "made"}, 1000)
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = []
    for number, part in enumerate(parts):
        path = folder / "responses" / f"shard-{number:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(part, RESPONSES), path)
        listed.append({"path": f"responses/{path.name}", "rows": len(part), "bytes": 1, "digest": str(number)})
    manifest["tables"]["responses"]["shards"] = listed
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


def made(start, count):
    return [{"id": f"{n:03d}", "question": f"q{n:03d}", "response": "bcda" * (n % 9 + 1)} for n in range(start, count)]


@pytest.mark.parametrize("routing", ["corpus-mean", "paper-002"])
def test_scores_of_a_first_pass_meet_their_rows_whatever_the_shards(tmp_path, routing):
    source = shards(tmp_path, made(0, 70), [], made(70, 150))
    squad = squad_file(tmp_path, routing=routing)
    stage = aligned(config(tmp_path, source, squad))
    rows = stage.table("aligned").to_arrow().to_pylist()
    assert [row["id"] for row in rows] == [f"{n:03d}" for n in range(150)]
    for row in rows:
        assert row["scores_before"]["long"] == min(len(row["response"]) / 100, 1)
    steps = [
        step for step in stage.table("trajectories").to_arrow().to_pylist() if step["step"] == 1 and step["member"]
    ]
    for start in range(0, 150, 64 if routing == "paper-002" else 150):
        part = rows[start : start + (64 if routing == "paper-002" else 150)]
        means = {name: np.mean([row["scores_before"][name] for row in part]) for name in ("long", "open")}
        ids = {row["id"] for row in part}
        assert {step["member"] for step in steps if step["id"] in ids} <= {min(means, key=means.get)}
    with pytest.raises(UsageError, match=f"--shard 1/2: routing {routing} needs the scores of all shards"):
        aligned(config(tmp_path, source, squad, shard="1/2"))


def test_folders_and_packs_are_found_beside_the_file(tmp_path):
    (tmp_path / "ethical" / "inspector").mkdir(parents=True)
    members = [
        {"criterion": "e", "inspector": "ethical/inspector", "aligner": "prompted", "pack": "ethical"},
        {"criterion": "f", "inspector": "elsewhere", "aligner": "ethical", "engine": {"args": {"max_model_len": 64}}},
    ]
    one, two = load_squad(squad_file(tmp_path, members)).members
    assert (one.inspector, one.pack) == (str(tmp_path / "ethical/inspector"), "ethical")
    assert (two.inspector, two.aligner) == ("elsewhere", str(tmp_path / "ethical"))
    with pytest.raises(UsageError, match="criterion: '.x' is no name"):
        load_squad(squad_file(tmp_path, [{**LONG, "criterion": ".x"}]))


def stage_file(tmp_path, **more):
    """Settings of the stage alone, with the squad in them."""
    path = tmp_path / "align.yaml"
    squad = {"members": [LONG, OPEN], "routing": "corpus-mean"}
    path.write_text(yaml.safe_dump({"squad": squad, **more}))
    return str(path)


def test_the_stage_alone_aligns_a_table_by_scores_that_another_stage_made(tmp_path, capsys):
    source, run = shards(tmp_path, made(0, 30), made(30, 50)), str(tmp_path / "run")
    assert stage_alone.main([source, "--config", stage_file(tmp_path), "-o", run]) == WRONG_USE
    said = " ".join(capsys.readouterr().err.split())
    assert "scores: routing corpus-mean needs the scores of all rows; run python -m pipelines.score" in said
    inspectors = {member["criterion"]: member["inspector"] for member in (LONG, OPEN)}
    scores = score.run(score.Config(corpus=source, output=run, inspectors=inspectors)).directory
    assert stage_alone.main([source, "--config", stage_file(tmp_path), "-o", run, "--scores", scores]) == DONE
    whole = config(tmp_path, source, squad_file(tmp_path, routing="corpus-mean"))
    stages = [path.parent for path in (tmp_path / "run" / "align").glob("*/manifest.json")]
    assert [aligned(whole).directory] == list(map(str, stages))  # the command finds what the stage made

    fewer = score.run(score.Config(corpus=source, output=run, inspectors=inspectors, limit=30)).directory
    again = [source, "--config", stage_file(tmp_path), "-o", str(tmp_path / "other"), "--scores", fewer]
    capsys.readouterr()
    assert stage_alone.main(again) == WRONG_USE
    assert "has other rows than" in " ".join(capsys.readouterr().err.split())


def test_every_row_may_be_said_by_the_file_or_by_the_flag(tmp_path):
    source = corpus(tmp_path, 12)
    file = aligned(config(tmp_path, source, squad_file(tmp_path, routing="fixed", every_row=True)))
    flag = aligned(config(tmp_path, source, squad_file(tmp_path, routing="fixed"), every_row=True))
    assert flag.directory == file.directory
    steps = file.table("trajectories").to_arrow().to_pylist()
    assert [step["member"] for step in steps if step["step"]] == ["long", "open"] * 12


def test_flags_are_checked_as_a_squad_file_is(tmp_path):
    flags = {"aligner": ("x",), "inspector": ("a/b",)}
    for more, message in (
        ({"threshold": 1.5}, "threshold: must be between 0 and 1, not 1.5"),
        ({"guard_margin": -1}, "guard_margin: must be between 0 and 1, not -1"),
        ({"criterion": (".x",)}, "criterion: '.x' is no name; .* .--criterion names it."),
        ({"squad": squad_file(tmp_path), "aligner": (), "inspector": (), "guard": True}, "guard: stands in the squad"),
    ):
        with pytest.raises(UsageError, match=message):
            config(tmp_path, "x", **{"squad": "", **flags, **more})
