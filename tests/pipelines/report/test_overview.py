from example_run import entry, write_about

from pipelines.report.overview import facts, models_table, steps_table, used_models, warnings
from pipelines.runtime.runs import open_run


def opened(run, *stages, **more):
    return open_run(str(write_about(run, list(stages), **more)))


def test_equal_models_are_told_once(tmp_path):
    models = {"questions model": "a", "inspector base": "b", "triples model": "a"}
    assert used_models(models) == {"a": ["questions model", "triples model"], "b": ["inspector base"]}
    run = opened(tmp_path, models=models)
    assert dict(facts(run))["Models"] == "a, b"
    assert models_table(run).rows == [("a", "questions model, triples model"), ("b", "inspector base")]
    assert dict(facts(opened(tmp_path, models={"triples model": "a"})))["Model"] == "a"
    assert models_table(opened(tmp_path, models={})) is None


def test_the_criteria_are_those_of_all_squads_also_before_they_are_done(tmp_path):
    squads = [["kind", "true"], ["true", "open"]]
    stages = [
        entry(str(number), "align", "1", status="to do", identity={"members": [{"criterion": name} for name in names]})
        for number, names in enumerate(squads)
    ]
    assert dict(facts(opened(tmp_path, *stages)))["Criteria"] == "kind, true, open"
    alone = entry("a", "align", "1", status="to do", identity={"members": [{"criterion": "kind"}]})
    assert dict(facts(opened(tmp_path, alone)))["Criterion"] == "kind"
    assert not {"Criterion", "Criteria"} & dict(facts(opened(tmp_path))).keys()


def test_steps_that_are_not_as_they_should_be_are_told_by_status(tmp_path):
    statuses = ["done", "failed", "interrupted", "stale", "to do", "running", "stale", "partial"]
    stages = [entry(f"{number}", "respond", "1", status=status) for number, status in enumerate(statuses)]
    assert warnings(opened(tmp_path, *stages)) == [
        "Stale, made with other settings or inputs than the run has now: 3, 6.",
        "Still running, or stopped from outside: 5.",
        "Interrupted; the same command again goes on there: 2.",
        "Failed: 1.",
        "Not complete: 7.",
    ]
    many = [entry(f"{number}", "respond", "1", status="stale") for number in range(9)]
    [told] = warnings(opened(tmp_path, *many))
    assert told.endswith("now: 0, 1, 2, 3, 4, 5 and 3 more.")


def test_the_table_of_steps_has_an_anchor_and_a_reason_for_each(tmp_path):
    stages = [
        entry("a/b", "respond", "1f", status="stale", because=["count: 3 → 4", "c is not done"], seconds=61),
        entry("c", "align", "", status="to do"),
    ]
    table = steps_table(opened(tmp_path, *stages))
    assert table.anchors == ["step-a.b", "step-c"]
    assert table.rows == [
        ("a/b", "respond", "stale: count: 3 → 4, c is not done", None, None, None, None, "1 min 01 s", "1f"),
        ("c", "align", "to do", None, None, None, None, "–", "–"),
    ]
