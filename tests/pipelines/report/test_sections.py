import json
from collections import Counter

import pyarrow as pa
from example_run import write_about, write_stage

from pipelines.report.sections import count_questions, levels_tables
from pipelines.runtime.runs import open_run


def counted(run, **tables):
    return count_questions(open_run(str(write_about(run, [write_stage(run, *entry) for entry in tables.items()]))))


def test_questions_are_counted_by_type_and_topic(tmp_path):
    questions = pa.table({"question_type": ["advice", "advice", None], "topic": ["tea", "tea", "salt"]})
    aligned = pa.table({"question_type": ["x"], "topic": ["y"]})
    assert counted(tmp_path, questions={"questions": questions}, align={"aligned": aligned}) == Counter(
        {("advice", "tea"): 2, ("not given", "salt"): 1}
    )


def test_a_corpus_may_have_these_columns_in_any_order_and_type(tmp_path):
    aligned = pa.table({"topic": ["long " * 100], "question_type": [7]})
    assert counted(tmp_path, align={"aligned": aligned}) == Counter({("7", ("long " * 100)[:80]): 1})


def test_a_corpus_without_these_columns_has_no_coverage(tmp_path):
    assert counted(tmp_path, align={"aligned": pa.table({"topic": ["tea"]})}) == Counter()


def level(mean):
    return {"mean": mean, "mean_interval": None, "share_above": mean, "share_above_interval": None}


def write_evaluation(run, name, after, **entry):
    stage = write_stage(run, name, {"judgements": pa.table({"id": ["a"]})})
    metrics = {"judges": [], "score_level": {"judge": {"before": level(0.25), "after": level(after)}}}
    (run / stage["directory"] / "metrics.json").write_text(json.dumps(metrics))
    return stage | entry


def levels_of(run, *stages):
    [means, _] = levels_tables(open_run(str(write_about(run, list(stages)))))
    return means.columns, means.rows


def test_stages_are_known_by_kind_and_evaluations_by_what_they_read(tmp_path):
    table = {"aligned": pa.table({"id": ["a"]})}
    stages = [write_stage(tmp_path, name, table) | {"kind": "align"} for name in ("careful", "align_boldly")]
    stages.append(write_evaluation(tmp_path, "of_bold", 0.75, kind="evaluate", inputs=["align_boldly"]))
    stages.append(write_evaluation(tmp_path, "of_careful", 0.5, kind="evaluate", inputs=["careful"]))
    columns, rows = levels_of(tmp_path, *stages)
    assert columns == ("judge", "responses", "boldly", "careful")
    assert rows == [["judge", "0.250", "0.750", "0.500"]]


def test_an_evaluation_from_before_judged_the_alignment_of_its_name(tmp_path):
    table = {"aligned": pa.table({"id": ["a"]})}
    stages = [write_stage(tmp_path, name, table) for name in ("align", "align_compared")]
    stages.append(write_evaluation(tmp_path, "evaluate_compared", 0.75))
    columns, rows = levels_of(tmp_path, *stages)
    assert (columns, rows) == (("judge", "responses", "compared"), [["judge", "0.250", "0.750"]])
