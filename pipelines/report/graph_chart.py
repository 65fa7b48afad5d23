"""The picture of a run's graph: a box for each step, a line to it from each step that it needs.

Layers go from left to right where that fits the page, else from top to bottom. The template graph.svg.jinja writes it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.report.formats import cell, duration
from pipelines.report.graph_layout import Layout, Node, lay_out, positions
from pipelines.runtime.runs import RecordedStage

BOX_WIDTH, BOX_HEIGHT = 144, 74
PAGE_WIDTH = 1030  # pixels that the page has room for; wider pictures scroll
WAY = 12  # pixels that a line is given where it passes boxes
GAP = 12  # between boxes of a layer
LEAST_GAP, MOST_GAP = 31, 64  # between layers
MARGIN = 4
TINTS = 6  # of groups, after which they repeat
STATUSES = {  # how a status is drawn
    "done": "done",
    "running": "running",
    "partial": "partial",
    "stale": "stale",
    "interrupted": "interrupted",
    "failed": "failed",
    "to do": "to-do",
}
TEXT_WIDTH = 122  # pixels of a box that a line of text may take
CHARACTER_WIDTHS = {"name": 7.6, "line": 6.2}  # pixels, of the broadest fonts that pages are shown in
NAME_CHARACTERS = 24
STATUS_CHARACTERS = 16  # of a status and a time side by side


@dataclass(frozen=True)
class Line:
    """A line of text in a box; `width` is set where the text is squeezed to fit."""

    text: str
    width: int | None = None


@dataclass(frozen=True)
class Box:
    """A step: where it stands, what it says, and the part of the page that it leads to."""

    step: str
    x: float
    y: float
    link: str
    style: str  # of the status, one of STATUSES' or "other"
    tint: int | None  # of its group
    name: Line
    kind: Line
    rows: Line
    status: Line
    time: str
    title: str


@dataclass(frozen=True)
class Arrow:
    """A line from a step to one that needs it, as an SVG path."""

    start: str
    end: str
    path: str


@dataclass(frozen=True)
class GraphChart:
    width: int
    height: int
    boxes: list[Box]
    arrows: list[Arrow]
    legend: list[tuple[str, str, int]]  # style, status, steps
    description: str
    box_width: int = BOX_WIDTH
    box_height: int = BOX_HEIGHT


def graph_chart(stages: Sequence[RecordedStage], links: Mapping[str, str]) -> GraphChart | None:
    """Draw the graph of a run's steps; None where there is none. links: by step, where its box leads to."""
    if not stages:
        return None
    layout = lay_out({stage.name: stage.inputs for stage in stages})
    plan = floor_plan(layout)
    groups = dict.fromkeys(stage.name.partition("/")[0] for stage in stages if "/" in stage.name)
    tint_of = {group: number % TINTS for number, group in enumerate(groups)}
    by_name = {stage.name: stage for stage in stages}
    corners = [plan.corner(Node(name, layer)) for name, layer in layout.layer_of.items()]
    statuses = Counter(stage.status for stage in by_name.values())
    return GraphChart(
        width=round(max(x for x, _ in corners) + BOX_WIDTH + MARGIN),
        height=round(max(y for _, y in corners) + BOX_HEIGHT + MARGIN),
        boxes=[
            _box(stage, plan.corner(Node(name, layout.layer_of[name])), links.get(name, ""), tint_of)
            for name, stage in by_name.items()
        ],
        arrows=[Arrow(start, end, plan.path(way)) for (start, end), way in layout.ways.items()],
        legend=[
            (style_of(status), status, statuses[status])
            for status in sorted(statuses, key=lambda status: [*STATUSES, status].index(status))
        ],
        description=(
            f"{len(by_name)} step{'s' * (len(by_name) != 1)} in {len(layout.layers)} layers, "
            f"{'from left to right' if plan.is_across else 'from top to bottom'}. An arrow leads from a step to each "
            "that needs it. The table of steps at the end of the page says the same in words."
        ),
    )


def style_of(status: str) -> str:
    return STATUSES.get(status, "other")


@dataclass(frozen=True)
class FloorPlan:
    """Where nodes stand: layers from left to right (`is_across`) or from top to bottom, `gap` pixels between them."""

    middles: Mapping[Node, float]
    is_across: bool
    gap: float

    @property
    def depth(self) -> int:
        """Return the size of a box along the way through the layers."""
        return BOX_WIDTH if self.is_across else BOX_HEIGHT

    def start(self, node: Node) -> float:
        return MARGIN + node.layer * (self.depth + self.gap)

    def corner(self, node: Node) -> tuple[float, float]:
        """Return x and y of a box's upper left corner."""
        along, across = self.start(node), self.middles[node] + MARGIN
        if self.is_across:
            return along, across - BOX_HEIGHT / 2
        return across - BOX_WIDTH / 2, along

    def path(self, way: Sequence[Node]) -> str:
        """Return the line through nodes: straight through layers that it passes, and bent between two layers."""
        first, *others = way
        along, across = self.start(first) + self.depth, self.middles[first] + MARGIN
        commands = [f"M{self._point(along, across)}"]
        for number, node in enumerate(others):
            start, middle = self.start(node), self.middles[node] + MARGIN
            bend = (along + start) / 2
            bends = (self._point(bend, across), self._point(bend, middle), self._point(start, middle))
            commands.append(f"C{' '.join(bends)}")
            along, across = start, middle
            if number < len(others) - 1:
                along += self.depth
                commands.append(f"L{self._point(along, across)}")
        return "".join(commands)

    def _point(self, along: float, across: float) -> str:
        x, y = (along, across) if self.is_across else (across, along)
        return f"{x:.1f},{y:.1f}"


def floor_plan(layout: Layout) -> FloorPlan:
    """Return positions from left to right where they fit the page or are the narrower, else from top to bottom."""
    layers = len(layout.layers)
    room = (PAGE_WIDTH - 2 * MARGIN - layers * BOX_WIDTH) / max(layers - 1, 1)
    across = FloorPlan(positions(layout, BOX_HEIGHT, WAY, GAP), True, min(max(room, LEAST_GAP), MOST_GAP))
    if room >= LEAST_GAP:
        return across
    down = FloorPlan(positions(layout, BOX_WIDTH, WAY, GAP), False, LEAST_GAP)
    width = max(down.middles.values()) + BOX_WIDTH / 2
    return down if width < layers * (BOX_WIDTH + LEAST_GAP) else across


def _box(stage: RecordedStage, corner: tuple[float, float], link: str, tint_of: Mapping[str, int]) -> Box:
    rows = stage.rows
    counted = ""
    if rows and stage.status != "to do":
        kept, going_in = cell(rows.kept), cell(rows.going_in)
        unit = "so far" if stage.shards else "rows"
        counted = f"{kept} {unit}" if kept == going_in else f"{kept} of {going_in} {unit}"
    time = duration(stage.seconds) if stage.seconds else ""
    is_short = len(stage.status) + len(time) <= STATUS_CHARACTERS
    told = [stage.name, stage.kind, stage.status, *stage.because, counted, time]
    return Box(
        step=stage.name,
        x=corner[0],
        y=corner[1],
        link=link,
        style=style_of(stage.status),
        tint=tint_of.get(stage.name.partition("/")[0]) if "/" in stage.name else None,
        name=_line(stage.name, "name"),
        kind=_line(stage.kind),
        rows=_line(counted),
        status=_line(stage.status),
        time=time if is_short else "",
        title=" · ".join(part for part in told if part),
    )


def _line(text: str, style: str = "line") -> Line:
    """Cut a text to what can be read in a box, and say how wide it may be where it would be wider."""
    if len(text) > NAME_CHARACTERS:
        text = text[: NAME_CHARACTERS - 1] + "…"
    return Line(text, TEXT_WIDTH if len(text) * CHARACTER_WIDTHS[style] > TEXT_WIDTH else None)
