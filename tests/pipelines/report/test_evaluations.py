import json

import pyarrow as pa
from example_run import write_about, write_stage

from pipelines.report.evaluations import evaluation_section, levels_tables
from pipelines.report.overview import key_figures
from pipelines.runtime.runs import open_run

RATE = {"n": 40, "wins": 30, "losses": 8, "ties": 2, "win_rate": 0.75, "ci95": [0.5, 1.0], "wins_over_decided": 0.8}


def level(mean):
    return {
        "mean": mean,
        "mean_interval": [mean - 0.25, mean + 0.25],
        "share_above": mean,
        "share_above_interval": None,
    }


def rated(judge="strict", **changes):
    return {"judge": judge, "kind": "inspector", **RATE, **changes}


def figures(after, *judges, by=None):
    scores = {judge["judge"]: {"before": level(0.25), "after": level(after)} for judge in judges}
    return {"judges": list(judges), "score_level": scores, "by": by or {}}


def evaluated(run, labels, name="evaluation", inputs=(), **more):
    stage = write_stage(run, name, {"win_rates": pa.table({"id": ["a"]})}, kind="evaluate", inputs=inputs)
    metrics = {"labels": labels, "over_seeds": {}, "two_way": [], "shared_rows": 40, "lacking": {}, **more}
    (run / stage["directory"] / "metrics.json").write_text(json.dumps(metrics))
    return stage


def aligned(run, name, **identity):
    tables = {"aligned": pa.table({"id": ["a"]})}
    return write_stage(run, name, tables, kind="align", identity={"every_row": False, **identity})


def parts_of(run, *stages):
    return evaluation_section(open_run(str(write_about(run, list(stages))))).parts


def tables_of(part):
    return {table.title: (list(table.columns), [list(row) for row in table.rows]) for table in part.tables}


def test_one_table_has_win_rates_and_levels_without_a_label(tmp_path):
    align = aligned(tmp_path, "align", guard=True)
    [part] = parts_of(tmp_path, align, evaluated(tmp_path, {"aligned": figures(0.75, rated())}, inputs=("align",)))
    [chart] = part.charts
    assert [list(row) for row in chart.rows] == [["strict", 40, 30, 8, 2, 0.75, [0.5, 1.0], 0.8]]
    assert chart.note.endswith(
        " Only rows below the threshold were rewritten, and a guard refused rewrites that scored lower; a row left as "
        "it was is a tie."
    )
    assert tables_of(part) == {
        "Mean score, with 95 % intervals": (
            ["judge", "responses", "aligned"],
            [["strict", "0.250 (0.000–0.500)", "0.750 (0.500–1.000)"]],
        ),
        "Share of rows that score 0.5 or more, with 95 % intervals": (
            ["judge", "responses", "aligned"],
            [["strict", "0.250", "0.750"]],
        ),
    }


def test_labels_stand_side_by_side_and_say_how_each_was_aligned(tmp_path):
    labels = {
        "off": figures(0.5, rated(), rated("short", win_rate=None, ci95=None)),
        "on": figures(0.75, rated()),
    }
    aligns = [aligned(tmp_path, "bold", guard=False, every_row=True), aligned(tmp_path, "careful", guard=True)]
    inputs = ("bold", "careful", "inspector")
    judged = evaluated(tmp_path, labels, inputs=inputs, shared_rows=38, lacking={"off": 0, "on": 2})
    [part] = parts_of(tmp_path, *aligns, judged)
    assert [row[:2] for row in part.charts[0].rows] == [["off", "strict"], ["off", "short"], ["on", "strict"]]
    assert part.charts[0].note.endswith(
        " Off: every row was rewritten, without a guard; a row left as it was is a tie. On: only rows below the "
        "threshold were rewritten, and a guard refused rewrites that scored lower; a row left as it was is a tie. "
        "Labels are compared on the 38 rows that all of them have. Lacking: 2 in on."
    )
    assert tables_of(part)["Share of rows that score 0.5 or more, with 95 % intervals"] == (
        ["judge", "responses", "off", "on"],
        [["strict", "0.250", "0.500", "0.750"], ["short", "0.250", "0.500", ""]],
    )


def test_a_label_that_is_no_alignment_of_the_run_is_not_explained(tmp_path):
    labels = {"off": figures(0.5, rated()), "best": figures(0.75, rated())}
    judged = evaluated(tmp_path, labels, inputs=("bold", "ranked"))
    [part] = parts_of(tmp_path, aligned(tmp_path, "bold", guard=False), judged)
    assert "rewritten" not in part.charts[0].note


def test_categories_have_a_column_for_each_label(tmp_path):
    def by(*rates):
        return {
            "topic": {"tea": {"judges": [rated(win_rate=rates[0], n=3)]}, "": {"judges": [rated(win_rate=rates[1])]}}
        }

    labels = {"off": figures(0.5, rated(), by=by(0.25, 0.5)), "on": figures(0.5, rated(), by=by(0.75, None))}
    [part] = parts_of(tmp_path, evaluated(tmp_path, labels))
    assert tables_of(part)["By topic"] == (
        ["topic", "judge", "rows", "win rate, off", "win rate, on"],
        [
            ["tea", "strict", 3, "0.250 (0.500–1.000)", "0.750 (0.500–1.000)"],
            ["(none)", "strict", 40, "0.500 (0.500–1.000)", ""],
        ],
    )


def test_names_over_seeds_have_a_row_for_each_judge(tmp_path):
    seeds = {
        "mine": {
            "seeds": ["1", "2"],
            "judges": [rated(win_rate=0.5), rated("ranker", ci95=None)],
            "score_shift": {"strict": {"shift": {"mean": 0.125}, "mean_shift_interval": [0.0, 0.25]}},
            "by": {"topic": {"tea": {"judges": [rated()]}}},
        }
    }
    labels = {"mine@1": figures(0.5, rated()), "mine@2": figures(0.5, rated())}
    [part] = parts_of(tmp_path, evaluated(tmp_path, labels, over_seeds=seeds))
    tables = tables_of(part)
    assert tables["Over seeds"] == (
        ["", "judge", "seeds", "rows", "win rate", "mean shift"],
        [
            ["mine", "strict", "1, 2", 40, "0.500 (0.500–1.000)", "0.125 (0.000–0.250)"],
            ["mine", "ranker", "1, 2", 40, "0.750", ""],
        ],
    )
    assert tables["By topic, over seeds"] == (
        ["topic", "judge", "rows", "win rate"],
        [["tea", "strict", 40, "0.750 (0.500–1.000)"]],
    )


def test_what_else_labels_have_is_one_table_and_two_way_items_another(tmp_path):
    labels = {
        name: figures(0.5, rated()) | {"text_change": {"unchanged": share}} for name, share in (("a", 0.5), ("b", 1.0))
    }
    two_way = [{"judge": "strict", "file": "hhh", "accuracy": 0.75}]
    [part] = parts_of(tmp_path, evaluated(tmp_path, labels, two_way=two_way))
    tables = tables_of(part)
    assert tables["Text change"] == (["", "unchanged"], [["a", 0.5], ["b", 1.0]])
    assert tables["Two way"] == (["judge", "file", "accuracy"], [["strict", "hhh", 0.75]])
    [part] = parts_of(tmp_path, evaluated(tmp_path, {"aligned": labels["a"]}))
    assert tables_of(part)["Text change"] == (["", "value"], [["unchanged", 0.5]])


def test_every_evaluation_has_its_part_and_the_last_one_the_large_numbers(tmp_path):
    first = evaluated(tmp_path, {"aligned": figures(0.5, rated(win_rate=0.25))}, "early")
    last = evaluated(tmp_path, {"off": figures(0.5, rated()), "on": figures(0.5, rated(win_rate=0.5))}, "late")
    run = open_run(str(write_about(tmp_path, [first, last])))
    parts = evaluation_section(run).parts
    assert [(part.step, part.charts[0].name) for part in parts] == [
        ("early", "early win-rates"),
        ("late", "late win-rates"),
    ]
    assert [(figure.value, figure.name, figure.note) for figure in key_figures(run, [])] == [
        ("0.750", "win rate, strict", "off, 95 %: 0.50 – 1.00")
    ]


def test_truth_and_controls_stand_with_their_own_evaluation(tmp_path):
    stages = [evaluated(tmp_path, {"aligned": figures(0.5, rated())}, name) for name in ("early", "late")]
    truth = {"rows": [{"criterion": "kind", "aligned": 0.5}], "note": "As the world has it."}
    (tmp_path / stages[1]["directory"] / "planted_truth.json").write_text(json.dumps(truth))
    controls = {"inspectors": [{"name": "length", "auc": 0.5}]}
    (tmp_path / stages[0]["directory"] / "controls.json").write_text(json.dumps(controls))
    early, late = map(tables_of, parts_of(tmp_path, *stages))
    assert early["Controls: inspectors"] == (["name", "auc"], [["length", 0.5]])
    assert late["Planted truth"] == (["criterion", "aligned"], [["kind", 0.5]])
    assert "Planted truth" not in early
    assert "Controls: inspectors" not in late


def test_there_are_no_levels_where_no_judge_scores():
    assert levels_tables({"aligned": {"judges": [rated()], "score_level": {}}}) == []
