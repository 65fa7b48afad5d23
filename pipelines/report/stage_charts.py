"""Charts of a run's stages: rows that went through, reasons, what the questions are about, how a training went."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from pipelines.report.charts import BLUE, ORANGE, RED, Cell, Chart, axis, figure, label, names, stacked_bar
from pipelines.report.formats import share, spaced
from pipelines.runtime.runs import RecordedStage

MOST_TOPICS = 40
MOST_REASONS = 20
REASON_CHARACTERS = 44  # of a step and a reason
WIDE_BARS = 8  # steps whose bars have all the room they like
MOST = 1 << 60
GROUPS = ((2, 2), (3, 3), (4, 4), (5, 9), (10, 99), (100, 999), (1000, MOST))  # sizes drawn together


def funnel(stages: Sequence[RecordedStage]) -> Chart | None:
    """Draw rows kept, dropped and rejected by every stage with tables.

    There is nothing to draw where one stage kept all.
    """
    counted = [(stage.name, rows) for stage in stages if (rows := stage.rows) and rows.going_in and stage.has_tables]
    if not counted or (len(counted) == 1 and counted[0][1].kept == counted[0][1].going_in):
        return None
    stage_names = [name for name, _ in counted]
    series = {
        "kept": ([rows.kept for _, rows in counted], BLUE, ""),
        "dropped": ([rows.dropped for _, rows in counted], ORANGE, "/"),
        "rejected": ([rows.rejected for _, rows in counted], RED, "x"),
    }
    traces = [
        stacked_bar(kind, values, colour, shape) for kind, (values, colour, shape) in series.items() if any(values)
    ]
    return Chart(
        "funnel",
        "Rows through the steps",
        "How many rows each step kept, dropped by a rule, or rejected because something failed.",
        figure(
            traces,
            90 + (44 if len(stage_names) <= WIDE_BARS else 30) * len(stage_names),
            barmode="stack",
            bargap=0.35,
            xaxis=axis("rows"),
            yaxis=axis(None, autorange="reversed", showgrid=False, **names(stage_names)),
        ),
        ("step", "rows in", "kept", "dropped", "rejected", "share kept"),
        [
            (name, rows.going_in, rows.kept, rows.dropped, rows.rejected, share(rows.kept, rows.going_in))
            for name, rows in counted
        ],
    )


def reasons(stages: Sequence[RecordedStage]) -> Chart | None:
    """Draw why rows were dropped or rejected, by the commonest reasons of all stages."""
    every: list[tuple[str, str, str, int, int]] = []  # stage, reason, dropped or rejected, rows, rows going in
    for stage in stages:
        counts = stage.counts or {}
        for kind in ("drops", "rejects"):
            for reason, rows in counts.get(kind, {}).items():
                every.append((stage.name, reason, "dropped" if kind == "drops" else "rejected", rows, counts["in"]))
    if not every:
        return None
    every.sort(key=lambda entry: (-entry[3], entry[:2]))
    drawn = every[:MOST_REASONS]
    traces = []
    for kind, colour in (("dropped", ORANGE), ("rejected", RED)):
        bars = [number for number, entry in enumerate(drawn) if entry[2] == kind]
        traces.append(
            go.Bar(
                name=kind,
                orientation="h",
                y=bars,
                x=[drawn[number][3] for number in bars],
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate="%{x:,} rows<extra></extra>",
                showlegend=bool(bars),
                width=0.65,
            )
        )
    reason_names = [f"{stage}: {reason}" for stage, reason, *_ in drawn]
    is_cut = len(drawn) < len(every)
    note = f"The {len(drawn)} commonest of {len(every)} reasons; the table has them all." if is_cut else ""
    return Chart(
        "reasons",
        "Why rows were left out",
        note,
        figure(
            traces,
            90 + 26 * len(drawn),
            xaxis=axis("rows", dtick=1 if drawn[0][3] < 5 else None),
            yaxis=axis(None, autorange="reversed", showgrid=False, **names(reason_names, reason_label)),
        ),
        ("step", "reason", "kind", "rows", "share"),
        [(stage, reason, kind, rows, share(rows, rows_in)) for stage, reason, kind, rows, rows_in in every],
    )


def reason_label(text: object) -> str:
    return label(text, REASON_CHARACTERS)


def group_sizes(sizes: Counter[int]) -> Chart | None:
    """Draw how many groups of alike rows there are of every size."""
    if not sizes:
        return None
    drawn: list[tuple[str, int]] = []
    for low, high in GROUPS:
        name = f"{low}" if low == high else f"{low}–{high}" if high < MOST else f"{low} or more"
        if groups := sum(count for size, count in sizes.items() if low <= size <= high):
            drawn.append((name, groups))
    return Chart(
        "group_sizes",
        "Rows that repeat another, by group",
        "A group is a row and all that were dropped for repeating it, in equal, nearly equal or other words.",
        figure(
            [
                go.Bar(
                    orientation="h",
                    y=list(range(len(drawn))),
                    x=[count for _, count in drawn],
                    marker={"color": BLUE, "line": {"width": 0}},
                    hovertemplate="%{x:,} groups<extra></extra>",
                    width=0.65,
                )
            ],
            90 + 26 * len(drawn),
            xaxis=axis("groups", dtick=1 if max(count for _, count in drawn) < 5 else None),
            yaxis=axis("rows in the group", autorange="reversed", showgrid=False, **names([name for name, _ in drawn])),
        ),
        ("rows in the group", "groups"),
        drawn,
    )


def coverage(questions: Counter[tuple[str, str]]) -> Chart | None:
    """Draw questions by (question type, topic): every type against the most frequent topics."""
    if not questions:
        return None
    by_type, by_topic = Counter[str](), Counter[str]()
    topics_of: dict[str, Counter[str]] = {}
    for (question_type, topic), count in questions.items():
        by_type[question_type] += count
        by_topic[topic] += count
        topics_of.setdefault(question_type, Counter())[topic] += count
    types = sorted(by_type, key=lambda name: (-by_type[name], name))
    topics = sorted(by_topic, key=lambda name: (-by_topic[name], name))[:MOST_TOPICS]
    # Topics beside the type that asks most about them: where topics belong to one type the blocks can be seen.
    home = {topic: max(types, key=lambda name: (topics_of[name][topic], by_type[name])) for topic in topics}
    topics.sort(key=lambda topic: (types.index(home[topic]), -by_topic[topic], topic))
    cells = [[questions[question_type, topic] or None for topic in topics] for question_type in types]
    named = [[f"{label(question_type)} × {label(topic)}" for topic in topics] for question_type in types]
    most_questions = max(questions[question_type, topic] for question_type in types for topic in topics)
    trace = go.Heatmap(
        z=cells,
        customdata=named,
        xgap=1,
        ygap=1,
        zmin=0,
        zmax=most_questions,
        hoverongaps=False,
        colorscale=[[0, "rgba(47,127,193,0.12)"], [1, "rgba(47,127,193,1)"]],
        colorbar={
            "title": {"text": "questions", "side": "right", "font": {"size": 12.5}},
            "thickness": 10,
            "outlinewidth": 0,
            "tickformat": ",d",
            "dtick": 1 if most_questions < 6 else None,
        },
        hovertemplate="%{customdata}: %{z:,} questions<extra></extra>",
    )
    total, shown = sum(by_topic.values()), sum(by_topic[topic] for topic in topics)
    note = f"{total:,} questions of {len(types)} types about {len(by_topic):,} topics."
    if len(topics) < len(by_topic):
        note += f" Drawn are the {len(topics)} most frequent topics, {share(shown, total)} of the questions."
    rows: list[tuple[Cell, ...]] = []
    for question_type in types:
        counts = topics_of[question_type]
        topic, most = counts.most_common(1)[0]
        rows.append((question_type, by_type[question_type], len(counts), topic, share(most, by_type[question_type])))
    return Chart(
        "coverage",
        "Topics and question types",
        note,
        figure(
            [trace],
            170 + 24 * len(types),
            xaxis=axis("topic", showgrid=False, tickangle=-60, **names(topics)),
            yaxis=axis("question type", showgrid=False, autorange="reversed", **names(types)),
        ),
        ("question type", "questions", "topics", "commonest topic", "its share"),
        rows,
    )


def losses(stage: str, history: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Draw training and validation loss over the steps, as the trainer logged them."""
    points_of = {
        name: [(entry["step"], entry[key]) for entry in history if key in entry]
        for name, key in (("training", "loss"), ("validation", "eval_loss"))
    }
    if not any(points_of.values()):
        return None
    traces = [
        go.Scatter(
            name=name,
            x=[step for step, _ in points],
            y=[loss for _, loss in points],
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 6, "symbol": symbol},
            hovertemplate=f"step %{{x:,}}: {name} loss %{{y:.4f}}<extra></extra>",
        )
        for (name, points), colour, dash, symbol in zip(
            points_of.items(), (ORANGE, BLUE), ("dot", "solid"), ("circle", "square"), strict=True
        )
        if points
    ]
    return Chart(
        f"losses-{stage}",
        f"Loss: {spaced(stage)}",
        "As the trainer logged it; the checkpoint that was kept is named below.",
        figure(traces, 280, xaxis=axis("step", tickformat=",", rangemode="tozero"), yaxis=axis("loss")),
        ("loss", "step", "value"),
        [(name, step, loss) for name, points in points_of.items() for step, loss in points],
    )
