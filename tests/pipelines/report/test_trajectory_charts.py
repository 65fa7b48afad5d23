import numpy as np
import pytest

from pipelines.report.distribution import Distribution
from pipelines.report.sections import thresholds, turns_of
from pipelines.report.trajectories import Trajectories, Turn
from pipelines.report.trajectory_charts import MOST_TURNS, refusals, rows_by_aligner, scores_by_step
from pipelines.runtime.runs import RecordedStage


def counted(*values):
    found = Distribution()
    found.add(np.array(values, np.float64))
    return found


def followed(turns, *scores):
    """Trajectories with these turns and, step by step, scores by criterion."""
    by_step = [{name: counted(*values) for name, values in step.items()} for step in scores]
    found = Trajectories(dict(enumerate(by_step)))
    found.turns.update({Turn(*turn): rows for turn, rows in turns.items()})
    return found


IN_TURN = followed(
    {
        (0, None, "as_given", None): 4,
        (1, "kind", "rewritten", None): 2,
        (1, "kind", "refused", "harmed:true"): 1,
        (1, None, "not_asked", None): 1,
        (2, None, "not_asked", None): 4,
    },
    *(
        {"kind": kind, "true": (0.9, 0.7, 0.8, 0.8)}
        for kind in ((0.1, 0.3, 0.2, 0.8), (0.5, 0.9, 0.2, 0.8), (0.6,) * 4)
    ),
)
BY_WORST = followed(
    {
        (0, None, "as_given", None): 6,
        (1, "kind", "rewritten", None): 2,
        (1, "true", "refused", "scored_lower"): 2,
        (1, "true", "refused", "harmed:kind"): 1,
        (1, "true", "unchanged", None): 1,
        (2, "true", "failed", None): 1,
        (2, None, "not_asked", None): 5,
    },
    *({"kind": (0.4, 0.2), "true": (0.5, 0.1)} for _ in range(3)),
)


def ticks(chart):
    return list(chart.figure.layout.xaxis.ticktext)


def test_every_step_has_the_mean_of_every_criterion():
    chart = scores_by_step(IN_TURN, {}, [])
    assert [(row[0], row[1], row[2], round(row[3], 6)) for row in chart.rows][:3] == [
        ("response", "kind", 4, 0.35),
        ("1 · kind", "kind", 4, 0.6),
        ("2", "kind", 4, 0.6),
    ]
    assert [trace.name for trace in chart.figure.data] == ["kind", "true"]
    assert chart.figure.layout.yaxis.range == (0, 1.03)


def test_a_step_has_the_name_of_its_aligner_where_there_is_one():
    assert ticks(scores_by_step(IN_TURN, {}, ["kind", "true"])) == ["response", "1 · kind", "2 · true"]
    assert ticks(scores_by_step(IN_TURN, {}, [])) == ["response", "1 · kind", "2"]
    assert ticks(scores_by_step(BY_WORST, {}, [])) == ["response", "1", "2 · true"]
    assert "different aligners" in scores_by_step(BY_WORST, {}, []).note
    assert "different aligners" not in scores_by_step(IN_TURN, {}, []).note


def test_a_single_criterion_has_a_band():
    chart = scores_by_step(followed({}, {"kind": (0.1, 0.3, 0.9)}, {"kind": (0.2, 0.4, 1.0)}), {"kind": 0.5}, ["kind"])
    assert [trace.name for trace in chart.figure.data] == ["middle half", "kind"]
    assert list(chart.figure.data[0].y) == pytest.approx([0.6, 0.7, 0.3, 0.2])
    assert rows_by_aligner(followed({}, {"kind": (0.1,)}), ["kind"]) is None


def test_a_threshold_has_the_colour_of_its_criterion_unless_several_share_it():
    def lines(limits):
        chart = scores_by_step(IN_TURN, limits, [])
        colours = {trace.line.color: trace.name for trace in chart.figure.data}
        return [(shape.y0, colours.get(shape.line.color, "shared")) for shape in chart.figure.layout.shapes]

    assert lines({"kind": 0.5, "true": 0.6}) == [(0.5, "kind"), (0.6, "true")]
    assert lines({"kind": 0.5, "true": 0.5}) == [(0.5, "shared")]
    assert lines({}) == []


def test_rows_of_a_step_are_those_asked_and_the_rest():
    assert rows_by_aligner(IN_TURN, ["kind", "true"]).rows == [
        (1, "kind", 3, 2, 0, 1, 0, 1),
        (2, "true", 0, 0, 0, 0, 0, 4),
    ]
    chart = rows_by_aligner(BY_WORST, [])
    assert chart.columns == ("step", "aligner", "asked", "rewritten", "unchanged", "refused", "failed", "not asked")
    assert chart.rows == [(1, "kind", 2, 2, 0, 0, 0, 4), (1, "true", 4, 0, 1, 3, 0, 2), (2, "true", 1, 0, 0, 0, 1, 5)]
    ends = np.sum([trace.x for trace in chart.figure.data], axis=0)
    assert ends.tolist() == [6, 6, 6]


def test_many_steps_are_cut_in_the_chart_alone():
    turns = {(step, name, "refused", "x"): 1 for step in range(1, 21) for name in ("kind", "true")}
    chart = rows_by_aligner(followed(turns, *[{"kind": (0.1,), "true": (0.1,)}] * 21), [])
    assert len(chart.rows) == 40
    assert len(chart.figure.data[0].x) == MOST_TURNS
    assert "The first 24 of 40" in chart.note


def test_refusals_are_counted_by_aligner_and_reason():
    table = refusals(BY_WORST)
    assert table.columns == ("aligner", "scored lower", "harmed:kind", "refused", "of its rewrites")
    assert table.rows == [("kind", 0, 0, 0, "0.0 %"), ("true", 2, 1, 3, "75.0 %")]
    assert refusals(followed({(1, "kind", "rewritten", "truncated"): 3}, {"kind": (0.1,)})) is None


def test_nothing_is_drawn_of_nothing():
    for chart in (
        scores_by_step(Trajectories(), {}, []),
        rows_by_aligner(Trajectories(), []),
        refusals(Trajectories()),
    ):
        assert chart is None


def squad(**settings):
    members = [{"criterion": "kind", "threshold": 0.5}, {"criterion": "true", "threshold": 0.6}]
    return RecordedStage("align", "align", "complete", 1.0, {"identity": {"members": members, **settings}})


@pytest.mark.parametrize(
    ("routing", "order"),
    [
        ("fixed", ["kind", "true"]),
        ("corpus-mean", ["true", "kind"]),  # by the means at step 0
        ("worst", []),
        ("paper-002", []),
        (None, ["kind", "true"]),
    ],
)
def test_the_order_of_aligners_is_known_where_all_rows_have_one(routing, order):
    found = followed({}, {"kind": (0.5,), "true": (0.4,)})
    assert turns_of(squad(routing=routing), found) == order


def test_thresholds_are_the_members_own_and_none_where_every_row_is_rewritten():
    assert thresholds(squad()) == {"kind": 0.5, "true": 0.6}
    assert thresholds(squad(every_row=True)) == {}
