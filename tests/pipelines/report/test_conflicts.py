import json

import pyarrow as pa
from example_run import entry, write_about, write_stage

from pipelines.report.conflicts import conflicts_section
from pipelines.runtime.runs import open_run

ROWS = [
    {
        "aligner": aligner,
        "criterion": criterion,
        "rows": 64,
        "change": change,
        "change_low": change and change - 0.25,
        "change_high": change and change + 0.25,
        "share_fallen": 0.125,
        "control_change": 0.5,
        "control_low": None,
        "control_high": None,
    }
    for aligner, criterion, change in (
        ("kind", "kind", 0.5),
        ("kind", "true", -0.25),
        ("true", "kind", None),
        ("true", "true", 0.25),
    )
]


def parts_of(run, rows=ROWS, summary=None):
    stage = write_stage(run, "conflicts", {"conflicts": pa.Table.from_pylist(rows)})
    if summary:
        (run / stage["directory"] / "conflicts.json").write_text(json.dumps(summary))
    return conflicts_section(open_run(str(write_about(run, [stage])))).parts


def test_the_matrix_is_drawn_and_told(tmp_path):
    summary = {"criteria": ["kind", "true"], "rows": 64, "before": [0.25, None], "after": [0.5, 0.75], "unmet": 0.125}
    [part] = parts_of(tmp_path, summary=summary | {"order": ["true", "kind"]})
    [chart] = part.charts
    [trace] = chart.figure.data
    assert [list(line) for line in trace.z] == [[0.5, -0.25], [None, 0.25]]
    assert [list(line) for line in trace.text] == [["+0.500", "−0.250"], ["–", "+0.250"]]
    assert (trace.zmin, trace.zmax) == (-0.5, 0.5)
    assert chart.figure.layout.yaxis.ticktext == ("kind", "true")
    assert list(chart.rows[1]) == ["kind", "true", 64, -0.25, [-0.5, 0.0], "12.5 %", 0.5, None]
    assert len(chart.columns) == len(chart.rows[1])
    assert chart.note.endswith("Order to try with routing fixed: true, kind.")
    [squad] = part.tables
    assert (squad.title, squad.note) == ("The squad on 64 rows", "12.5 % of the rows stay below a threshold.")
    assert squad.rows == [("kind", 0.25, 0.5), ("true", None, 0.75)]


def test_small_changes_have_no_full_colour(tmp_path):
    [part] = parts_of(tmp_path, [{**ROWS[0], "change": 0.01}])
    assert part.charts[0].figure.data[0].zmax == 0.05
    assert part.tables == []


def test_where_nothing_was_rewritten_that_is_said(tmp_path):
    [part] = parts_of(tmp_path, [{**row, "change": None} for row in ROWS], {"criteria": ["kind"], "before": [0.5]})
    assert (part.charts, part.missing) == ([], "No aligner rewrote a row of the sample, so that no score changed.")


def test_what_has_not_finished_says_so(tmp_path):
    [part] = conflicts_section(
        open_run(str(write_about(tmp_path, [entry("matrix", "conflicts", "1", status="failed")])))
    ).parts
    assert (part.charts, part.missing) == ([], "The step matrix has not finished (failed).")
