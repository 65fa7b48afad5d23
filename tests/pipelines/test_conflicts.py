"""The kind `conflicts`: what each aligner does to every score of a sample, with a control, and what the squad does."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import yaml
from one_step import do

from pipelines import conflicts
from pipelines.commands import align
from pipelines.recipe.outlook import outlook_of
from pipelines.runtime.step import Place
from schemas.command_line import DONE, WRONG_USE
from schemas.errors import UsageError
from schemas.settings import validated
from schemas.tables import CONFLICTS, RESPONSES
from transforms.tables.table import read_table
from transforms.tables.write import write_tables

MODELS = "scripted:tests.scripted_models"
ECHO = {"engine": "scripted", "args": {"function": "tests.scripted_models:echoes"}}
MEMBERS = (
    {"criterion": "topic", "inspector": f"{MODELS}:on_topic", "aligner": "x"},
    {"criterion": "long", "inspector": f"{MODELS}:lengths", "aligner": "x"},
)


def responses(tmp_path, count=4, **more):
    """Rows of 50 letters that do not speak of their questions; the echo has 18 of them and does."""
    rows = [{"id": str(n), "question": f"why {n}?", "response": "x" * 50, **more} for n in range(count)]
    schema = pa.schema([*RESPONSES, *((name, pa.string()) for name in more)])
    write_tables(str(tmp_path / "made"), {"responses": pa.Table.from_pylist(rows, schema)}, {"stage": "made"}, 3)
    return str(tmp_path / "made")


def settings(source, members=MEMBERS, **more):
    return validated(conflicts.Config, "test", {"responses": source, "members": list(members), **more})


def matrix(stage):
    rows = stage.table().to_arrow().to_pylist()
    return {(row["aligner"], row["criterion"]): row for row in rows}


def test_each_aligner_alone_and_a_control_are_measured_over_the_sample(tmp_path, capsys):
    stage = do(conflicts.KIND, settings(responses(tmp_path)), tmp_path / "run", ECHO)
    assert stage.table().schema == CONFLICTS == conflicts.KIND.gives(settings("x"), {})["conflicts"]
    cells = matrix(stage)
    assert list(cells) == [("topic", "topic"), ("topic", "long"), ("long", "topic"), ("long", "long")]
    for aligner in ("topic", "long"):  # one model, so the two do the same
        on_topic, long = cells[aligner, "topic"], cells[aligner, "long"]
        named = ("rows", "change", "change_low", "change_high", "share_fallen")
        assert [on_topic[name] for name in named] == [4, 1.0, 1.0, 1.0, 0.0]
        assert [on_topic[name] for name in ("control_change", "control_low", "control_high")] == [0.0, 0.0, 0.0]
        assert (long["change"], long["share_fallen"]) == (pytest.approx(-0.32), 1.0)
        assert long["control_change"] == pytest.approx(-0.32)  # this inspector does not look at the question
    summary = json.loads((tmp_path / "run" / f"conflicts/{stage.digest}/conflicts.json").read_text())
    assert (summary["rows"], summary["corpus_rows"], summary["criteria"]) == (4, 4, ["topic", "long"])
    assert (summary["before"], summary["order"]) == ([0.0, 0.5], ["topic", "long"])
    assert (summary["after"], summary["unmet"]) == ([0.0, 0.5], 1.0)  # the guard refuses what harms `long`
    said = " ".join(capsys.readouterr().err.split())
    assert "mean change over the rows of 4 that it answered for" in said
    assert " topic 4 +1.000 -0.320 long 4 +1.000 -0.320 squad, before 0.000 0.500 " in said
    assert "suggested order (routing: fixed): topic, long" in said
    assert "expected to stay below a threshold: 100%, about 4 rows" in said
    assert sorted(path.name for path in (tmp_path / "run" / "conflicts" / stage.digest).iterdir()) == [
        "conflicts",
        "conflicts.json",
        "manifest.json",
    ]


def test_an_aligner_none_of_whose_rewrites_could_be_used_is_named(tmp_path, capsys):
    stage = do(conflicts.KIND, settings(responses(tmp_path)), tmp_path / "run", ECHO)
    table = stage.table().to_arrow()
    is_long = np.array(table["aligner"].to_pylist()) == "long"
    rows = pa.array(np.where(is_long, 0, table["rows"].to_numpy()))
    table = table.set_column(table.schema.get_field_index("rows"), "rows", rows)
    capsys.readouterr()
    shown = SimpleNamespace(to_arrow=lambda: table)
    conflicts.shows(SimpleNamespace(directory=stage.directory, table=lambda name: shown))
    said = capsys.readouterr().err
    assert "long: no rewrite of it could be used: cut off" in said
    assert "topic: no rewrite" not in said


def test_the_squad_goes_by_its_own_rules_and_mean_scores(tmp_path):
    source = responses(tmp_path)
    for rules in ({"guard": False}, {"routing": "corpus-mean", "guard": False}):
        stage = do(conflicts.KIND, settings(source, **rules), tmp_path / "run", ECHO)
        summary = json.loads((tmp_path / "run" / f"conflicts/{stage.digest}/conflicts.json").read_text())
        assert (summary["after"], summary["unmet"]) == ([1.0, pytest.approx(0.18)], 1.0)


def test_a_sample_has_rows_from_all_over_and_another_column_may_be_the_answer(tmp_path):
    source = responses(tmp_path, 10, correction="y" * 80)
    few = do(conflicts.KIND, settings(source, rows=2), tmp_path / "run", ECHO)
    assert {row["rows"] for row in matrix(few).values()} == {2}
    first = do(conflicts.KIND, settings(source, rows=100, limit=3), tmp_path / "run", ECHO)
    assert {row["rows"] for row in matrix(first).values()} == {3}
    chosen = settings({"table": source, "answer": "correction"}, rows=1000)
    changed = matrix(do(conflicts.KIND, chosen, tmp_path / "run", ECHO))["topic", "long"]
    assert (changed["rows"], changed["change"]) == (10, pytest.approx(-0.62))


def test_a_criterion_without_an_inspector_has_no_scores_to_change(tmp_path, capsys):
    members = (MEMBERS[0], {"criterion": "any", "aligner": "x"})
    rules = {"every_row": True, "guard": False, "routing": "fixed"}
    stage = do(conflicts.KIND, settings(responses(tmp_path), members, **rules), tmp_path / "run", ECHO)
    cells = matrix(stage)
    assert (cells["any", "topic"]["change"], cells["any", "any"]["change"], cells["any", "any"]["rows"]) == (
        1.0,
        None,
        0,
    )
    summary = json.loads((tmp_path / "run" / f"conflicts/{stage.digest}/conflicts.json").read_text())
    assert (summary["before"], summary["after"], summary["unmet"]) == ([0.0, None], [1.0, None], 0.0)
    assert " any 4 +1.000 – " in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match="members: no criterion has an inspector"):
        settings("x", members[1:], **rules)


def test_a_table_without_a_row_is_refused_and_rows_are_at_least_one(tmp_path):
    write_tables(str(tmp_path / "none"), {"responses": RESPONSES.empty_table()}, {"stage": "made"}, 3)
    with pytest.raises(UsageError, match="none: has no row to look at"):
        do(conflicts.KIND, settings(str(tmp_path / "none")), tmp_path / "run", ECHO)
    with pytest.raises(UsageError, match="rows: must be at least 1, not 0"):
        settings("x", rows=0)


def test_the_command_imports_takes_a_sample_and_aligns_nothing(tmp_path, capsys):
    squad, corpus, run = tmp_path / "squad.yaml", tmp_path / "rows.jsonl", tmp_path / "run"
    squad.write_text(yaml.safe_dump({"members": [member | {"engine": ECHO} for member in MEMBERS]}))
    corpus.write_text("\n".join(json.dumps({"question": f"why {n}?", "response": "x" * 50}) for n in range(100)))
    flags = [str(corpus), "--squad", str(squad), "-o", str(run), "--conflicts"]
    for _ in range(2):  # the second time it is found done, and shown
        assert align.main(flags) == DONE
        assert "the rows of 64 that" in " ".join(capsys.readouterr().err.split())
    assert sorted(entry["stage"] for entry in json.loads((run / "run.json").read_text())["stages"]) == [
        "conflicts",
        "import",
    ]
    (made,) = (run / "conflicts").glob("*/")
    assert read_table(str(made)).rows == 4
    settings = align.Config(corpus=str(corpus), squad=str(squad), output=str(tmp_path / "other"), conflicts=True)
    *_, planned = outlook_of(align.plan_steps(settings, align.find_squad(settings)), Place(str(tmp_path / "other")))
    assert (planned.name, planned.rows) == ("conflicts", 4)
    assert align.main([*flags, "--plan", "-o", settings.output]) == DONE
    *_, planned = outlook_of(align.plan_steps(settings, align.find_squad(settings)), Place(str(tmp_path / "other")))
    assert [(one.part, one.requests) for one in planned.estimates] == [("rewrite topic", 128), ("rewrite long", 128)]
    assert align.main([*flags, "--shard", "1/2"]) == WRONG_USE
    assert "shard: --conflicts looks at one sample" in " ".join(capsys.readouterr().err.split())
