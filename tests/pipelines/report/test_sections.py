from collections import Counter

import pyarrow as pa
from example_run import write_about, write_stage

from pipelines.report.run_directory import open_run
from pipelines.report.sections import count_questions


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
