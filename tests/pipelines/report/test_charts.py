import json
from collections import Counter

import numpy as np
import plotly.graph_objects as go

from pipelines.report import corpus_charts, stage_charts
from pipelines.report.charts import label, to_json, wrapped
from pipelines.report.corpus import Corpus
from pipelines.report.distribution import Distribution
from pipelines.runtime.runs import RecordedStage


def stage(name, going_in, kept, drops=(), rejects=(), tables=("table",)):
    counts = {"in": going_in, "kept": kept, "drops": dict(drops), "rejects": dict(rejects)}
    return RecordedStage(name, name, "complete", 1.0, {"counts": counts, "tables": {table: {} for table in tables}})


def counted(*values, decimals=4):
    found = Distribution(decimals)
    found.add(np.array(values, np.float64))
    return found


STAGES = [
    stage("questions", 10, 7, {"short": 3}),
    stage("align", 7, 7, rejects={"prompt_too_long": 2}),
    stage("train_aligner", 9, 5, tables=()),
    RecordedStage("evaluate", "evaluate", "running", None, None),
]


def test_funnel_counts_what_was_kept_dropped_and_rejected():
    assert stage_charts.funnel(STAGES).rows == [
        ("questions", 10, 7, 3, 0, "70.0 %"),
        ("align", 7, 5, 0, 2, "71.4 %"),  # its table holds every row, the failed ones too
    ]


def test_reasons_come_commonest_first_with_their_stage():
    assert stage_charts.reasons(STAGES).rows == [
        ("questions", "short", "dropped", 3, "30.0 %"),
        ("align", "prompt_too_long", "rejected", 2, "28.6 %"),
    ]


def test_charts_of_nothing_are_left_out():
    assert stage_charts.funnel([]) is None
    assert stage_charts.funnel([stage("align", 3, 3)]) is None
    assert stage_charts.reasons([STAGES[2]]) is None
    assert stage_charts.coverage(Counter()) is None
    assert stage_charts.losses("train_aligner", [{"step": 1, "learning_rate": 0.1}]) is None
    assert corpus_charts.scores("kind", counted(np.nan), counted(np.nan), 0.5) is None
    assert corpus_charts.lengths(Corpus()) is None
    assert corpus_charts.win_rates({}, "") is None


def test_coverage_counts_questions_by_type_and_topic():
    chart = stage_charts.coverage(Counter({("advice", "tea"): 3, ("advice", "salt"): 1, ("opinion", "tea"): 2}))
    assert chart.rows == [("advice", 4, 2, "tea", "75.0 %"), ("opinion", 2, 1, "tea", "100.0 %")]
    assert chart.figure.data[0].z == ([3, 1], [2, None])


def test_coverage_draws_the_commonest_topics_and_says_so():
    chart = stage_charts.coverage(Counter({("advice", f"topic {number}"): 1 for number in range(50)}))
    assert len(chart.figure.data[0].z[0]) == stage_charts.MOST_TOPICS
    assert "40 most frequent topics, 80.0 % of the questions" in chart.note


def test_losses_are_two_lines():
    history = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 2.5}, {"step": 2, "loss": 1.0}]
    assert stage_charts.losses("train_aligner", history).rows == [
        ("training", 1, 2.0),
        ("training", 2, 1.0),
        ("validation", 1, 2.5),
    ]


def test_scores_are_counted_in_bins_of_a_twentieth():
    chart = corpus_charts.scores("kind", counted(0.01, 0.02, 1.0), counted(0.97, np.nan, 0.99), 0.5)
    before, after = chart.figure.data
    assert (before.y[0], before.y[19], sum(before.y[:20])) == (2, 1, 3)
    assert (after.y[0], after.y[19], sum(after.y[:20])) == (0, 2, 2)
    assert chart.figure.layout.shapes[0].x0 == 0.5
    assert [row[:2] for row in chart.rows] == [("before", 3), ("after", 2)]


def test_one_long_text_does_not_squeeze_the_others():
    lengths = counted(*[100] * 999, 1_000_000, decimals=0)
    chart = corpus_charts.lengths(Corpus(rows=1000, response_characters=lengths, aligned_characters=lengths))
    assert chart.figure.data[0].x[-1] == 100
    assert "the longest has 1,000,000" in chart.note


def test_win_rates_have_their_intervals():
    counts = {"n": 4, "wins": 2, "losses": 1, "ties": 1, "wins_over_decided": 2 / 3}
    chart = corpus_charts.win_rates(
        {
            "aligned": [
                {"judge": "strict", "win_rate": 0.5, "ci95": [0.25, 1.0], **counts},
                {"judge": "short", "win_rate": None, "ci95": None, **counts},
            ]
        },
        "How it was made.",
    )
    assert chart.rows[0] == ["strict", 4, 2, 1, 1, 0.5, [0.25, 1.0], 2 / 3]
    assert chart.rows[1][5:7] == [None, None]
    assert chart.figure.data[0].error_x.array == (0.5, None)
    assert chart.note.endswith("How it was made.")
    assert not chart.figure.data[0].showlegend


def test_win_rates_of_several_labels_stand_around_their_judge():
    counts = {"n": 4, "wins": 2, "losses": 1, "ties": 1, "wins_over_decided": 2 / 3, "ci95": None}
    rate = {"judge": "strict", "win_rate": 0.5, **counts}
    chart = corpus_charts.win_rates(
        {"off": [rate, {**rate, "judge": "<b>"}], "on": [{**rate, "judge": "<b>"}], "%{x}": [rate]}, ""
    )
    assert [row[:2] for row in chart.rows] == [["off", "strict"], ["off", "<b>"], ["on", "<b>"], ["%{x}", "strict"]]
    assert chart.columns[:2] == ("label", "judge")
    assert [trace.name for trace in chart.figure.data] == ["off", "on", "%{x}"]
    assert [trace.y for trace in chart.figure.data] == [(-0.22, 0.78), (1.0,), (0.22,)]
    assert len({trace.marker.symbol for trace in chart.figure.data}) == 3
    assert all(
        trace.hovertemplate == "%{fullData.name}: win rate %{x:.3f}<extra></extra>" for trace in chart.figure.data
    )


def test_few_questions_have_whole_ticks():
    assert stage_charts.coverage(Counter({("advice", "tea"): 1})).figure.data[0].colorbar.dtick == 1
    assert stage_charts.coverage(Counter({("advice", "tea"): 6})).figure.data[0].colorbar.dtick is None


def test_labels_are_one_short_line_without_markup():
    assert label("<b>two\nlines</b>") == "&lt;b&gt;two lines&lt;/b&gt;"
    assert label("x" * 40) == "x" * 27 + "…"


def test_long_labels_are_wrapped_without_markup():
    assert wrapped("1 · <b>factual</b> and well sourced") == "1 ·<br>&lt;b&gt;factual&lt;/b&gt;<br>and well…"


def test_json_cannot_end_its_script_element():
    text = "</script><!--&\u2028\u2029"
    made = to_json({text: go.Figure(layout={"title": {"text": text}})})
    assert not set(made) & set("<>&\u2028\u2029")
    assert json.loads(made)[text]["layout"]["title"]["text"] == text
