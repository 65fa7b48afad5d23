"""The kinds `align` and `score` as steps: stacking, members without inspectors, given scores, identity, squad files."""

import shutil
from typing import get_args

import pyarrow as pa
import pytest
import yaml
from one_step import do
from scripted_squad import ALIGNER, LONG, OPEN, aligned, config, made, shards, squad_file

from pipelines import align as stage_alone
from pipelines import score
from pipelines.report.corpus import summarise
from pipelines.report.trajectories import FOLLOWED, follow
from pipelines.runtime import entrypoint
from pipelines.runtime.estimates import Prospect, Sample
from pipelines.runtime.squads import squad_of_step
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import Place, Step
from schemas.command_line import DONE, WRONG_USE
from schemas.criteria.pack import load_pack
from schemas.errors import UsageError
from schemas.settings import validated
from schemas.squads import AlignMember, Routing, load_squad, squad_yaml
from schemas.tables import RESPONSES
from transforms.engines.engine import EngineConfig
from transforms.engines.prompt_tokens import BYTES_PER_TOKEN
from transforms.tables.table import read_table
from transforms.tables.write import write_tables

ROUTINGS = get_args(Routing)


def table_of(tmp_path, rows, name="made", schema=None):
    path = tmp_path / name
    write_tables(str(path), {"responses": pa.Table.from_pylist(rows, schema)}, {"stage": "made"}, 4)
    return str(path)


def step_config(source, members=(LONG, OPEN), **more):
    """Settings of an align step, all of whose aligners run on one engine."""
    plain = [{name: value for name, value in member.items() if name != "engine"} for member in members]
    return validated(stage_alone.Config, "test", {"responses": source, "members": plain, **more})


def align_alone(tmp_path, source, members=(LONG, OPEN), **more):
    return do(stage_alone.KIND, step_config(source, members, **more), tmp_path / "run", ALIGNER)


UNGUARDED = {"every_row": True, "guard": False, "routing": "fixed"}
UNSCORED = {"criterion": "any", "aligner": "z"}


def test_an_aligned_table_is_aligned_again_and_keeps_its_layers(tmp_path):
    first = align_alone(tmp_path, table_of(tmp_path, made(0, 3)), (LONG,), **UNGUARDED)
    assert first.read_manifest()["answer"] == "aligned"
    second = align_alone(tmp_path, first.directory, (OPEN,), **UNGUARDED)
    third = align_alone(tmp_path, second.directory, (LONG,), **UNGUARDED)
    for stage, given in ((second, first), (third, second)):
        inputs = {"responses": given.table().schema}
        foretold = stage_alone.gives(step_config(given.directory, (OPEN,) if stage is second else (LONG,)), inputs)
        assert stage.table().schema == foretold["aligned"]
    rows = [stage.table().to_arrow().to_pylist() for stage in (first, second, third)]
    kept = ("response", "aligned", "decision", "scores_before", "scores_after")
    for once, twice, thrice in zip(*rows, strict=True):
        assert list(thrice) == ["id", "question", "response", "layer_1", "layer_2", *kept[1:]]
        assert thrice["layer_1"] == twice["layer_1"] == {name: once[name] for name in kept}
        assert thrice["layer_2"] == {name: twice[name] for name in kept}
        assert (twice["response"], thrice["response"]) == (once["aligned"], twice["aligned"])
        assert set(twice["scores_before"]) == {"open"}
    steps = third.table("trajectories").to_arrow().to_pylist()
    assert [step["text"] for step in steps if step["step"] == 0] == [row["aligned"] for row in rows[1]]


def test_another_column_may_be_the_answer(tmp_path):
    rows = [row | {"correction": f"aeiou {row['id']}"} for row in made(0, 2)]
    source = table_of(tmp_path, rows)
    stage = align_alone(tmp_path, {"table": source, "answer": "correction"}, **UNGUARDED)
    for given, row in zip(rows, stage.table().to_arrow().to_pylist(), strict=True):
        assert (row["response"], row["correction"]) == (given["correction"], given["correction"])
        assert row["layer_1"] == {"response": given["response"]}
    anew = align_alone(tmp_path, {"table": stage.directory, "answer": "response"}, (OPEN,), **UNGUARDED)
    row = anew.table().to_arrow().to_pylist()[0]
    assert (row["response"], list(row["layer_2"])) == (
        rows[0]["correction"],
        ["response", "aligned", "decision", "scores_before", "scores_after"],
    )


def test_orders_by_scores_hold_for_the_column_that_is_the_answer(tmp_path):
    rows = [row | {"correction": "bcd" * (99 - n)} for n, row in enumerate(made(0, 70))]
    source = {"table": table_of(tmp_path, rows), "answer": "correction"}
    inspectors = {member["criterion"]: member["inspector"] for member in (LONG, OPEN)}
    scores = do(score.KIND, score.Config(responses=source, inspectors=inspectors), tmp_path / "run")
    scored = scores.table().to_arrow().to_pylist()
    assert [row["scores"]["long"] for row in scored] == [min(len(row["correction"]) / 100, 1) for row in rows]
    for routing in ("corpus-mean", "paper-002"):
        more = {"routing": routing, "scores": scores.directory, "every_row": True}
        stage = align_alone(tmp_path, source, **more)
        assert stage.table().to_arrow().to_pylist()[0]["scores_before"] == scored[0]["scores"]
        steps = stage.table("trajectories").to_arrow().to_pylist()
        assert {step["member"] for step in steps if step["step"] == 1} == {"open"}  # its mean is 0


def test_where_no_score_decides_a_member_needs_no_inspector(tmp_path):
    stage = align_alone(tmp_path, table_of(tmp_path, made(0, 5)), (LONG, UNSCORED), **UNGUARDED)
    rows = stage.table().to_arrow().to_pylist()
    assert {row["decision"] for row in rows} == {"rewritten"}
    for name in ("scores_before", "scores_after"):
        assert {row[name]["any"] for row in rows} == {None}
        assert None not in {row[name]["long"] for row in rows}
    steps = stage.table("trajectories").to_arrow().to_pylist()
    assert [step["member"] for step in steps] == [None, "long", "any"] * 5
    assert {dict(step[name])["any"] for step in steps for name in ("scores", "candidate_scores")} == {None}
    alone = align_alone(tmp_path, table_of(tmp_path, made(0, 5)), (UNSCORED,), every_row=True, guard=False)
    assert {step["scores"] for step in alone.table("trajectories").to_arrow().to_pylist()} == {None}
    for done in (stage, alone):
        followed = follow(done.table("trajectories").batches(FOLLOWED), 10)
        corpus = summarise(done.table().batches(), 10)
        assert (corpus.decisions, followed.criteria) == ({"rewritten": 5}, ["long"] if done is stage else [])
        assert {row.gain for row in corpus.samples if done is alone} <= {0.0}


@pytest.mark.parametrize(
    ("rules", "members", "message"),
    [
        ({}, (LONG, UNSCORED), "rows below its threshold are chosen by their scores"),
        ({"every_row": True}, (UNSCORED,), "the guard compares scores; name one, or set guard: false"),
        ({"every_row": True, "guard": False}, (UNSCORED, LONG), "routing worst goes by scores"),
        ({"every_row": True, "routing": "paper-002", "scores": "s"}, (UNSCORED,), "routing paper-002 goes by scores"),
    ],
)
def test_where_scores_decide_every_member_has_an_inspector(tmp_path, rules, members, message):
    with pytest.raises(UsageError, match=f"inspector: criterion 'any' has none, and {message}"):
        step_config("x", members, **rules)


def test_given_scores_are_not_made_again_and_are_those_of_the_members(tmp_path, monkeypatch):
    source = table_of(tmp_path, made(0, 6))
    inspectors = {member["criterion"]: member["inspector"] for member in (OPEN, LONG)}
    scores = do(score.KIND, score.Config(responses=source, inspectors=inspectors), tmp_path / "run")
    named = []
    monkeypatch.setattr("transforms.tables.progress.add", lambda step, **_: named.append(step))
    plain, scored = (align_alone(tmp_path, source, **more) for more in ({}, {"scores": scores.directory}))
    assert plain.table().to_arrow() == scored.table().to_arrow()
    assert named.count("score responses") == 2  # two shards, once
    fewer = align_alone(tmp_path, source, limit=5, scores=scores.directory)  # of the same rows, the first
    assert fewer.table().rows == 5
    mixed = {"long": OPEN["inspector"], "open": OPEN["inspector"]}
    for own in ({"open": OPEN["inspector"]}, mixed):
        others = do(score.KIND, score.Config(responses=source, inspectors=own), tmp_path / "run")
        with pytest.raises(UsageError, match="the inspector of 'long' did not score these rows"):
            align_alone(tmp_path, source, scores=others.directory)


def test_scores_of_other_answers_to_the_same_questions_are_refused(tmp_path):
    rows = made(0, 6)
    source = table_of(tmp_path, rows)
    longer = table_of(tmp_path, [row | {"response": row["response"] * 3} for row in rows], "longer")
    inspectors = {member["criterion"]: member["inspector"] for member in (OPEN, LONG)}
    run = tmp_path / "run"
    of_longer = do(score.KIND, score.Config(responses=longer, inspectors=inspectors), run).directory
    of_question = do(
        score.KIND,
        score.Config(responses={"table": source, "answer": "question"}, inspectors=inspectors),
        run,
    ).directory
    for scores in (of_longer, of_question):
        with pytest.raises(UsageError, match="has other rows than .*made; score that table anew"):
            align_alone(tmp_path, source, scores=scores)
    fewer = do(score.KIND, score.Config(responses=source, inspectors=inspectors, limit=5), run).directory
    assert align_alone(tmp_path, source, scores=fewer, limit=3).table().rows == 3


def test_what_decides_an_alignment_is_in_its_identity(tmp_path):
    source = table_of(tmp_path, made(0, 2))
    stages = {
        name: align_alone(tmp_path, source, **more)
        for name, more in {
            "plain": {},
            "guard said": {"guard": True},
            "guard off": {"guard": False},
            "order": {"members": (OPEN, LONG)},
            "threshold": {"members": (LONG, OPEN | {"threshold": 0.6})},
            "inspector": {"members": (LONG, OPEN | {"inspector": LONG["inspector"]})},
            "sampling": {"sampling": {"max_tokens": 7}},
            "seed": {"seed": 1},
        }.items()
    }
    digests = {name: stage.digest for name, stage in stages.items()}
    assert digests.pop("guard said") == digests["plain"]
    assert len(set(digests.values())) == len(digests) == 7
    assert stages["plain"].identity["guard"] is True
    prompted = align_alone(tmp_path, source, (LONG | {"pack": "ethical"},))
    assert {"template", "guard"} < prompted.identity.keys()
    assert "template" not in stages["plain"].identity


def test_the_squad_of_a_step_aligns_again_wherever_its_run_lies(tmp_path, monkeypatch):
    run = tmp_path / "run"
    for name in ("base", "inspector"):
        (run / "train" / name).mkdir(parents=True)
        (run / "train" / name / "config.json").write_text("{}")
    outside = tmp_path / "outside"
    outside.mkdir()
    engines = (
        {"model": str(run / "train" / "base"), "args": {"dtype": "float32"}},
        {"engine": "server", "base_url": "http://localhost:8000/v1", "model": "named", "style": "chat"},
        {"model": str(run / "train" / "base"), "style": "chat"},
        {"model": "Qwen/Qwen3-0.6B"},
    )
    members = (
        AlignMember(criterion="a", inspector="civic/inspector", aligner="civic/aligner", threshold=0.25),
        AlignMember(criterion="b", inspector="judge", aligner="served"),
        AlignMember(criterion="c", inspector="judge", aligner="large", pack="ethical"),
        AlignMember(criterion="d", aligner="hub"),
    )
    rules = {"routing": "fixed", "every_row": True, "guard": False}
    models = {f"members.{n}.aligner": EngineConfig(**engine) for n, engine in enumerate(engines)}
    models |= {"members.0.inspector": str(run / "train" / "inspector")}
    models |= {f"members.{n}.inspector": str(outside) for n in (1, 2)}
    config = stage_alone.Config(responses="r", members=members, **rules)
    directory = run / "align" / "1a2b"
    directory.mkdir(parents=True)
    step = Step("aligned", Stage(str(directory), "aligned", {}), Place(str(run)), models=models)
    (directory / "squad.yaml").write_text(squad_yaml(squad_of_step(config, step)))
    moved = tmp_path / "moved" / "elsewhere"
    moved.parent.mkdir()
    shutil.copytree(run, moved)
    for home in (run, moved):
        monkeypatch.chdir(outside)
        squad = load_squad(str(home / "align" / "1a2b" / "squad.yaml"))
        base = str(home / "align" / "1a2b" / "../../train/base")
        assert [(member.criterion, member.aligner, member.pack) for member in squad.members] == [
            ("a", base, ""),
            ("b", "named", ""),
            ("c", "prompted", "ethical"),
            ("d", "Qwen/Qwen3-0.6B", ""),
        ]
        assert [member.inspector for member in squad.members] == [
            str(home / "align" / "1a2b" / "../../train/inspector"),
            str(outside),
            str(outside),
            "",
        ]
        assert [member.engine for member in squad.members] == [
            {"args": {"dtype": "float32"}},
            {"engine": "server", "base_url": "http://localhost:8000/v1", "style": "chat"},
            {"style": "chat", "model": base},
            {},
        ]
        assert (squad.has_guard, squad.every_row, squad.routing) == (False, True, "fixed")
        assert squad.members[0].threshold == 0.25


def test_what_a_step_leaves_aligns_another_corpus_by_the_same_squad(tmp_path):
    stage = align_alone(tmp_path, table_of(tmp_path, made(0, 9)), rounds=3)
    squad = f"{stage.directory}/squad.yaml"
    again = aligned(config(tmp_path, table_of(tmp_path, made(0, 9)), squad))
    assert again.directory == stage.directory
    assert load_squad(squad).rounds == 3


def test_scores_are_asked_for_where_the_routing_needs_them(tmp_path):
    message = "scores: routing corpus-mean needs the scores of all rows; add a `score` step"
    with pytest.raises(UsageError, match=message):
        step_config("x", routing="corpus-mean")
    grows = {routing: stage_alone.KIND.grows(step_config("x", routing=routing, scores="s")) for routing in ROUTINGS}
    assert grows == {"worst": True, "fixed": True, "corpus-mean": False, "paper-002": False}
    assert step_config("x", guard=None, routing="paper-002", scores="s").has_guard is False


def test_what_a_step_gives_is_known_from_the_columns_of_its_responses(tmp_path):
    config = step_config("x")
    assert stage_alone.KIND.gives(config, {}) == {}
    tables = stage_alone.KIND.gives(config, {"responses": pa.schema([*RESPONSES, ("topic", pa.string())])})
    assert list(tables) == ["aligned", "trajectories", "rejects"]
    assert tables["aligned"].names == [
        *RESPONSES.names,
        "topic",
        *("aligned", "decision", "scores_before", "scores_after"),
    ]
    with pytest.raises(UsageError, match="x: has 'decision' already, which align adds"):
        stage_alone.KIND.gives(config, {"responses": pa.schema([*RESPONSES, ("decision", pa.string())])})
    inspectors = {"long": "i", "open": "j"}
    scored = score.KIND.gives(score.Config(responses="x", inspectors=inspectors), {})["scores"]
    assert scored == pa.schema({"id": pa.string(), "scores": pa.struct({"long": pa.float64(), "open": pa.float64()})})


def test_scoring_alone_is_a_command(tmp_path):
    source, run = table_of(tmp_path, made(0, 3)), str(tmp_path / "run")
    flags = [source, "--set", f"inspectors.long={LONG['inspector']}", "-o", run]
    assert entrypoint.main(score.KIND, score.__doc__, flags) == DONE
    (made_scores,) = (tmp_path / "run" / "score").glob("*/")
    rows = read_table(str(made_scores)).to_arrow().to_pylist()
    assert [row["scores"] for row in rows] == [{"long": 0.04 * (n + 1)} for n in range(3)]
    assert entrypoint.main(score.KIND, score.__doc__, [source, "-o", run]) == WRONG_USE


def test_a_prompted_aligner_is_planned_with_principles_and_demonstrations():
    members = (LONG, OPEN | {"pack": "ethical"})
    texts = {"id": ["a", "b"], "question": ["How do I win?", None], "aligned": ["By cheating.", "Yes."]}
    prospect = Prospect(
        {"responses": 2},
        samples={"responses": Sample(pa.table(texts), is_real=True)},
        answers={"responses": "aligned"},
        models={f"members.{number}.aligner": EngineConfig(model="m") for number in (0, 1)},
    )
    planned = stage_alone.estimate(step_config("x", members, sampling={"max_tokens": 70}, rounds=4), prospect)
    trained, prompted = planned.estimates
    pack = load_pack("ethical")
    said = sum(len(one.text) for one in pack.principles) + sum(len(one.correction) for one in pack.demonstrations)
    assert prompted.prompt_tokens > trained.prompt_tokens + said / BYTES_PER_TOKEN
    assert (planned.rows, prompted.requests, trained.requests) == (2, 4, 4)
    assert prompted.generated_tokens == trained.generated_tokens == 280
    known = stage_alone.estimate(step_config("x", members), Prospect(models=prospect.models))
    assert (known.rows, [one.requests for one in known.estimates]) == (None, [None, None])


def stage_file(tmp_path, **more):
    """Settings of the stage alone, with the squad in them."""
    path = tmp_path / "align.yaml"
    members = [{name: value for name, value in member.items() if name != "engine"} for member in (LONG, OPEN)]
    path.write_text(yaml.safe_dump({"members": members, "routing": "corpus-mean", "engine": ALIGNER, **more}))
    return str(path)


def stage_main(*arguments):
    return entrypoint.main(stage_alone.KIND, stage_alone.__doc__, arguments)


def test_the_stage_alone_aligns_a_table_by_scores_that_another_stage_made(tmp_path, capsys):
    source, run = shards(tmp_path, made(0, 30), made(30, 50)), str(tmp_path / "run")
    assert stage_main(source, "--config", stage_file(tmp_path), "-o", run) == WRONG_USE
    said = " ".join(capsys.readouterr().err.split())
    assert "scores: routing corpus-mean needs the scores of all rows; add a `score` step" in said
    inspectors = {member["criterion"]: member["inspector"] for member in (LONG, OPEN)}
    scores = do(score.KIND, score.Config(responses=source, inspectors=inspectors), run).directory
    assert stage_main(source, "--config", stage_file(tmp_path), "-o", run, "--scores", scores) == DONE
    whole = config(tmp_path, source, squad_file(tmp_path, routing="corpus-mean"))
    stages = [path.parent for path in (tmp_path / "run" / "align").glob("*/manifest.json")]
    assert [aligned(whole).directory] == list(map(str, stages))  # the command finds what the stage made

    fewer = do(score.KIND, score.Config(responses=source, inspectors=inspectors, limit=30), run).directory
    again = [source, "--config", stage_file(tmp_path), "-o", str(tmp_path / "other"), "--scores", fewer]
    capsys.readouterr()
    assert stage_main(*again) == WRONG_USE
    assert "has other rows than" in " ".join(capsys.readouterr().err.split())
