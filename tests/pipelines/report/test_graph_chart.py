import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from example_run import entry, write_about, write_stage

from pipelines.report.graph_chart import BOX_HEIGHT, BOX_WIDTH, PAGE_WIDTH, graph_chart
from pipelines.report.page import environment
from pipelines.runtime.runs import RecordedStage, open_run
from transforms.tables import storage


def stage(name, *inputs, kind="respond", status="done", counts=None, seconds=None, because=()):
    manifest = {"counts": {"drops": {}, "rejects": {}, **counts}, "tables": {"rows": {}}} if counts else None
    return RecordedStage(name, f"runs/a/{name}", status, seconds, manifest, kind, inputs, because)


SMALL = [
    stage("heldout", kind="import", counts={"in": 240, "kept": 240}, seconds=0.4),
    stage("civic/questions", kind="questions", counts={"in": 1207, "kept": 1000}, seconds=20.1),
    stage("civic/curated", "civic/questions", "heldout", kind="curate", status="interrupted", seconds=754.0),
    stage("kind/questions", kind="questions", status="failed", because=("count: 3 → 4",)),
    stage("evaluation", "civic/curated", "civic/questions", kind="evaluate", status="to do"),
]


def drawn(stages, links=None):
    chart = graph_chart(stages, links or {})
    run = {"name": "mine"}
    return environment().get_template("graph.svg.jinja").render(graph=chart, run=run)


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_a_box_says_name_kind_rows_status_and_time():
    boxes = {box.step: box for box in graph_chart(SMALL, {"heldout": "step-heldout"}).boxes}
    told = {
        name: (box.name.text, box.kind.text, box.rows.text, box.status.text, box.time) for name, box in boxes.items()
    }
    assert told == {
        "heldout": ("heldout", "import", "240 rows", "done", "0.4 s"),
        "civic/questions": ("civic/questions", "questions", "1,000 of 1,207 rows", "done", "20.1 s"),
        "civic/curated": ("civic/curated", "curate", "", "interrupted", ""),  # the time would not fit: the title has it
        "kind/questions": ("kind/questions", "questions", "", "failed", ""),
        "evaluation": ("evaluation", "evaluate", "", "to do", ""),
    }
    assert boxes["civic/curated"].title == "civic/curated · curate · interrupted · 12 min 34 s"
    assert boxes["kind/questions"].title == "kind/questions · questions · failed · count: 3 → 4"
    assert [box.style for box in boxes.values()] == ["done", "done", "interrupted", "failed", "to-do"]
    assert [box.tint for box in boxes.values()] == [None, 0, 0, 1, None]
    assert boxes["heldout"].link == "step-heldout"


def test_layers_stand_from_left_to_right():
    chart = graph_chart(SMALL, {})
    columns = {box.step: box.x for box in chart.boxes}
    assert columns["heldout"] == columns["civic/questions"] == columns["kind/questions"]
    assert columns["heldout"] + BOX_WIDTH < columns["civic/curated"]
    assert columns["civic/curated"] + BOX_WIDTH < columns["evaluation"]
    assert chart.width <= PAGE_WIDTH
    assert "5 steps in 3 layers, from left to right." in chart.description


def test_the_legend_counts_the_steps_of_each_status():
    assert graph_chart(SMALL, {}).legend == [
        ("done", "done", 2),
        ("interrupted", "interrupted", 1),
        ("failed", "failed", 1),
        ("to-do", "to do", 1),
    ]
    assert graph_chart([stage("a", status="odd")], {}).legend == [("other", "odd", 1)]


def numbers(path):
    return [tuple(map(float, pair.split(","))) for pair in re.findall(r"-?[\d.]+,-?[\d.]+", path)]


@pytest.mark.parametrize("steps", [SMALL, [stage(str(n), *([str(n - 1)] if n else [])) for n in range(12)]])
def test_every_edge_leads_from_the_side_of_a_box_to_the_side_of_another(steps):
    chart = graph_chart(steps, {})
    boxes = {box.step: box for box in chart.boxes}
    is_across = "left" in chart.description
    for arrow in chart.arrows:
        (x, y), *_, (end_x, end_y) = numbers(arrow.path)
        start, end = boxes[arrow.start], boxes[arrow.end]
        if is_across:
            assert (x, y) == pytest.approx((start.x + BOX_WIDTH, start.y + BOX_HEIGHT / 2), abs=0.1)
            assert (end_x, end_y) == pytest.approx((end.x, end.y + BOX_HEIGHT / 2), abs=0.1)
        else:
            assert (x, y) == pytest.approx((start.x + BOX_WIDTH / 2, start.y + BOX_HEIGHT), abs=0.1)
            assert (end_x, end_y) == pytest.approx((end.x + BOX_WIDTH / 2, end.y), abs=0.1)
    assert {(arrow.start, arrow.end) for arrow in chart.arrows} == {
        (need, step.name) for step in steps for need in step.inputs
    }


def test_a_long_edge_runs_through_no_box():
    steps = [stage("a"), stage("b", "a"), stage("c", "a"), stage("d", "b", "c", "a")]
    chart = graph_chart(steps, {})
    [path] = [arrow.path for arrow in chart.arrows if (arrow.start, arrow.end) == ("a", "d")]
    passing = [box for box in chart.boxes if box.step in "bc"]
    [_, y] = numbers(path)[3]  # where it reaches the layer of b and c; a line from there goes straight through
    assert f"L{passing[0].x + BOX_WIDTH:.1f},{y:.1f}" in path
    assert all(not box.y - 3 < y < box.y + BOX_HEIGHT + 3 for box in passing)


def test_a_deep_graph_goes_from_top_to_bottom_and_a_broad_one_scrolls():
    deep = graph_chart([stage(str(n), *([str(n - 1)] if n else [])) for n in range(12)], {})
    assert "12 steps in 12 layers, from top to bottom." in deep.description
    assert deep.width < PAGE_WIDTH
    assert sorted(box.y for box in deep.boxes) == [box.y for box in deep.boxes]
    broad = graph_chart([stage(str(n)) for n in range(12)], {})
    assert "from left to right" in broad.description
    assert broad.height > 12 * BOX_HEIGHT


def test_every_step_and_edge_is_drawn_once():
    page = Elements(drawn(SMALL, {step.name: f"step-{number}" for number, step in enumerate(SMALL)}))
    boxes = [attributes for tag, attributes in page.elements if tag == "a"]
    assert [(box["data-step"], box["href"]) for box in boxes] == [
        (step.name, f"#step-{number}") for number, step in enumerate(SMALL)
    ]
    edges = [(each["data-from"], each["data-to"]) for _, each in page.elements if "data-from" in each]
    assert sorted(edges) == [
        ("civic/curated", "evaluation"),
        ("civic/questions", "civic/curated"),
        ("civic/questions", "evaluation"),
        ("heldout", "civic/curated"),
    ]
    [svg] = [attributes for _, attributes in page.elements if attributes.get("class") == "graph"]
    assert svg["aria-labelledby"] == "graph-title graph-text"
    assert "The steps of mine" in page.texts
    assert [tag for tag, _ in page.elements if tag in ("script", "style", "image", "foreignobject")] == []


def test_texts_are_escaped():
    attack = '"><script>x</script>'
    html = drawn([stage(attack, kind=attack, status=attack, because=(attack,)), stage("b", attack)], {attack: attack})
    assert "<script" not in html
    assert html.count("&lt;script") >= 5
    assert next(attributes for tag, attributes in Elements(html).elements if tag == "a")["data-step"] == attack


def test_long_names_are_cut_and_squeezed():
    [box] = graph_chart([stage("a_very_long_name_of_a_single_step", seconds=1.0)], {}).boxes
    assert (box.name.text, box.name.width) == ("a_very_long_name_of_a_s…", 122)
    assert box.title.startswith("a_very_long_name_of_a_single_step ")
    [box] = graph_chart([stage("short")], {}).boxes
    assert box.name.width is None


def test_there_is_no_picture_of_nothing():
    assert graph_chart([], {}) is None


def test_a_running_step_counts_its_complete_shards(tmp_path):
    stages = [write_stage(tmp_path, "prompts", {"questions": pa.table({"id": ["a"]})}, kind="import", rows_in=1)]
    stages.append(entry("answers", "respond", "1", status="running", inputs=("prompts",)))
    for name, kept in (("a", 3), ("b", 4)):
        shard = {"name": name, "mark": "x", "in": 5, "drops": {"short": 1}, "rejects": {}}
        tables = {"responses": {"path": f"responses/{name}.parquet", "rows": kept}}
        storage.write_json(f"{tmp_path}/respond/1/entries/{name}.json", shard | {"tables": tables})
    _, box = graph_chart(open_run(str(write_about(tmp_path, stages))).stages, {}).boxes
    assert (box.rows.text, box.status.text) == ("7 of 10 so far", "running")
