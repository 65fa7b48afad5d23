"""Aligning with a squad file from end to end, with scripted models: routing, orders, what is refused before work."""

import itertools
import json

import numpy as np
import pytest
from scripted_squad import LONG, OPEN, aligned, config, made, shards, squad_file

from pipelines.commands import align, check
from pipelines.recipe.outlook import outlook_of
from pipelines.runtime.step import Place
from schemas.command_line import DONE, WRONG_USE
from schemas.errors import UsageError
from schemas.squads import load_squad
from transforms.alignment.members import members_of


def corpus(tmp_path, count=100) -> str:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"q{n}?", "response": "bcd" * (n % 40 + 1) + "aei" * (n % 7)} for n in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


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


def test_a_plan_says_what_the_squad_would_cost_and_loads_nothing(tmp_path, capsys):
    settings = config(tmp_path, corpus(tmp_path), squad_file(tmp_path), plan=True)
    assert align.run(settings) == DONE
    assert "plan (nothing was loaded, asked or spent)" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "run").glob("align/*"))
    assert not (tmp_path / "run" / "cache").exists()
    imported, planned = outlook_of(align.plan_steps(settings, align.find_squad(settings)), Place(settings.output))
    assert (imported.is_done, planned.rows) == (True, 100)
    assert [(one.part, one.model, one.requests, one.generated_tokens) for one in planned.estimates] == [
        ("rewrite long", "x", 100, 25_600),
        ("rewrite open", "y", 100, 25_600),
    ]


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


def opened_members(config):
    planned = align.plan_steps(config, align.find_squad(config))[-1]
    return members_of(planned.config.members, align.models_of(planned), planned.config.sampling)


def test_adapters_share_the_engine_of_one_base(tmp_path):
    bases = [tmp_path / "base", tmp_path / "other"]
    for base in bases:
        base.mkdir()
        (base / "model.safetensors").write_bytes(b"")
        (base / "config.json").write_text("{}")
    plain = [{name: member[name] for name in ("criterion", "inspector")} for member in (LONG, OPEN)]
    one, two = adapter(tmp_path / "one", bases[0]), adapter(tmp_path / "two", bases[0])
    good = squad_file(tmp_path, [plain[0] | {"aligner": "one"}, plain[1] | {"aligner": "two"}])
    members = opened_members(config(tmp_path, "x", good))
    assert members[0].model.engine == members[1].model.engine
    assert members[0].model.engine.adapters == (one, two)
    assert [member.model.adapter for member in members] == [one, two]
    adapter(tmp_path / "three", bases[1])
    bad = squad_file(tmp_path, [plain[0] | {"aligner": "one"}, plain[1] | {"aligner": "three"}])
    with pytest.raises(UsageError, match=r"open: its adapter's base is .*other, that of long is .*base"):
        opened_members(config(tmp_path, "x", bad))


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
