from collections import Counter

import pyarrow as pa
from example_run import entry, write_about, write_stage, write_training

from pipelines.report.parts import Part, anchored, links_of, section
from pipelines.report.sections import (
    count_questions,
    coverage_section,
    members,
    rows_section,
    thresholds,
    training_section,
)
from pipelines.report.stage_charts import coverage
from pipelines.runtime.runs import RecordedStage, open_run
from transforms.corpora.fields import REJECTS


def opened(run, *stages):
    return open_run(str(write_about(run, list(stages))))


def counted(run, table):
    return count_questions(opened(run, write_stage(run, "a", {"rows": table})).stages[0].table("rows"))


def test_questions_are_counted_by_type_and_topic(tmp_path):
    questions = pa.table({"question_type": ["advice", "advice", None], "topic": ["tea", "tea", "salt"]})
    assert counted(tmp_path, questions) == Counter({("advice", "tea"): 2, ("not given", "salt"): 1})


def test_a_corpus_may_have_these_columns_in_any_order_and_type(tmp_path):
    aligned = pa.table({"topic": ["long " * 100], "question_type": [7]})
    assert counted(tmp_path, aligned) == Counter({("7", ("long " * 100)[:80]): 1})


def test_a_corpus_without_these_columns_has_no_coverage(tmp_path):
    assert counted(tmp_path, pa.table({"topic": ["tea"]})) == Counter()


def test_every_step_of_a_kind_has_its_part(tmp_path):
    questions = pa.table({"question_type": ["advice"], "topic": ["tea"]})
    stages = [
        write_stage(tmp_path, f"{name}/questions", {"questions": questions}, kind="questions") for name in ("a", "b")
    ]
    stages.append(entry("c/questions", "questions", "1", status="interrupted"))
    parts = coverage_section(opened(tmp_path, *stages)).parts
    assert [(part.step, [chart.name for chart in part.charts], part.missing, part.anchor) for part in parts] == [
        ("a/questions", ["a/questions coverage"], "", "coverage-a.questions"),
        ("b/questions", ["b/questions coverage"], "", "coverage-b.questions"),
        ("c/questions", [], "The step c/questions has not finished (interrupted).", "coverage-c.questions"),
    ]


def test_a_single_part_keeps_the_names_of_its_charts():
    chart = coverage(Counter({("advice", "tea"): 1}))
    [part] = section("coverage", "Coverage", [Part("a"), Part("b", [chart])]).parts
    assert (part.step, part.charts) == ("b", [chart])


def test_trainings_stand_side_by_side(tmp_path):
    history = [{"step": 1, "loss": 0.5}]
    stages = [
        write_training(tmp_path, f"{name}/inspector", {"auc": 0.9}, history, kind="train_inspector")
        for name in ("a", "b")
    ]
    trained = training_section(opened(tmp_path, *stages))
    assert trained.beside
    assert [part.step for part in trained.parts] == ["a/inspector", "b/inspector"]
    assert [chart.name for chart in trained.parts[1].charts] == ["b/inspector losses-b/inspector"]
    assert trained.parts[1].tables[0].note.startswith("168 train rows, 36 validation rows; steps: 84")


def test_a_step_leads_to_its_first_part_else_to_its_row():
    sections = [
        section("rows", "Rows", [Part("", missing="none")]),
        section("change", "Change", [Part("x/align", missing="none"), Part("z", missing="none")]),
        section("steps", "Steps", [Part("x/align", missing="none"), Part("z", missing="none")]),
    ]
    links = links_of(sections, ["x/align", "score"])
    assert links == {"x/align": "change-x.align", "score": "step-score"}


def test_anchors_have_no_space_and_no_quote():
    assert anchored("step", '1/a b"<') == "step-1.a.b.."


def test_what_was_not_imported_is_listed_by_file_and_line(tmp_path):
    rejects = [{"source": "a.jsonl", "line": number, "raw": "{}", "error": "no_question"} for number in range(1, 23)]
    tables = {"questions": pa.table({"id": ["a"]}), "rejects": pa.Table.from_pylist(rejects, REJECTS)}
    [part] = rows_section(opened(tmp_path, write_stage(tmp_path, "tests", tables, kind="import", rows_in=23))).parts
    [table] = part.tables
    assert (table.title, table.note) == ("Not imported: tests", "The first 20 of 22.")
    assert list(table.columns) == ["source", "line", "reason", "text"]
    assert table.rows[0] == ["a.jsonl", 1, "no_question", "{}"]
    assert len(table.rows) == 20
    assert [chart.rows for chart in part.charts if chart.name == "reasons"] == [
        [("tests", "no_question", "rejected", 22, "95.7 %")]
    ]


def align(**identity):
    return RecordedStage("align", "runs/a/align", "done", None, {"identity": identity}, "align")


def test_members_that_nobody_scores_have_no_threshold():
    squad = [
        {"criterion": "kind", "inspector": "1f", "threshold": 0.5},
        {"criterion": "true", "inspector": None, "threshold": 0.5},
    ]
    assert thresholds(align(members=squad, every_row=False)) == {"kind": 0.5}
    assert thresholds(align(members=squad, every_row=True)) == {}
    assert [member["criterion"] for member in members(align(members=squad))] == ["kind", "true"]
    assert members(align()) == []
