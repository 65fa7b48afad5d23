"""Look at an aligned corpus in the terminal: before, after, scores.

alignbeam show out --diff --only rewritten --limit 5
alignbeam show out --id 4964a9e3
alignbeam show runs/mine --step guarded
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as Grid
from rich.text import Text

from pipelines.report.corpus import Sample, Shown, columns_of, sample
from pipelines.report.formats import cell, spaced
from pipelines.report.trajectories import give_steps
from pipelines.report.views import Comparison, View, views
from pipelines.runtime import entrypoint
from pipelines.runtime.runs import RecordedStage, open_run
from schemas.command_line import DONE, check_limit
from schemas.console import messages, results
from schemas.errors import UsageError
from schemas.fields import setting
from schemas.tables import DECISIONS, Decision
from transforms.tables.table import Table

visible = results.visible
SUMMARY_CHARACTERS = 160
DECISION_STYLES = {"rewritten": "green", "refused": "yellow", "failed": "red"}


class Marks(NamedTuple):
    """What stands around left-out and new words, beside their style."""

    old: tuple[str, str]
    new: tuple[str, str]


STYLED = Marks(("", ""), ("", ""))
PLAIN = Marks(("[-", "-]"), ("{+", "+}"))  # where no style can be shown: in a file or a pipe


@dataclass(frozen=True, kw_only=True)
class Config:
    run: str = setting("directory that `alignbeam run` or `alignbeam align` wrote", positional=True)
    diff: bool = setting("whole texts with a word-level difference, one row after another", False)
    only: Decision | None = setting(f"only rows so decided: {', '.join(DECISIONS)}", None)
    id: str | None = setting("only rows whose id starts so", None)
    limit: int = setting("most rows shown", 20)
    step: str = setting("the align step whose corpus is shown (default: the last one that is done)", "")

    def __post_init__(self) -> None:
        check_limit(self.limit)


def select(batch: pa.RecordBatch, only: str | None, row_id: str | None) -> pa.RecordBatch:
    """Return the rows of one decision, and of ids that begin so."""
    if only is not None:
        batch = batch.filter(pc.equal(batch.column("decision"), only))
    if row_id is not None:
        batch = batch.filter(pc.starts_with(batch.column("id").cast(pa.string()), row_id))
    return batch


def overview(samples: Sequence[Sample]) -> Grid:
    """Show a line for every row: decision, scores before and after, the beginnings of its texts."""
    criteria = list(dict.fromkeys(name for entry in samples for name in entry.after))
    grid = Grid(show_edge=False, pad_edge=False, header_style="bold", padding=(0, 2, 1, 0))
    grid.add_column("decision", no_wrap=True)
    for name in criteria:
        grid.add_column(name, justify="right", no_wrap=True)
    for name in ("question", "response", "aligned"):
        grid.add_column(name, ratio=1, overflow="fold")
    for entry in samples:
        grid.add_row(
            decision(entry),
            *(f"{cell(entry.before.get(name))} → {cell(entry.after.get(name))}" for name in criteria),
            summary(entry.question),
            summary(entry.response),
            Text("as before", "dim") if entry.unchanged else summary(entry.aligned),
        )
    return grid


def decision(entry: Sample) -> Text:
    return Text.assemble(
        (spaced(visible(entry.decision)), DECISION_STYLES.get(entry.decision, "")),
        "\n",
        (visible(entry.id)[:12], "dim"),
    )


def summary(shown: Shown | None) -> Text:
    """Return the beginning of a text on one line."""
    if shown is None:
        return Text("no text", "dim italic")
    line = " ".join(visible(shown.text[: 2 * SUMMARY_CHARACTERS]).split())  # some controls count as white space
    cut = len(line) > SUMMARY_CHARACTERS or shown.characters > 2 * SUMMARY_CHARACTERS
    return Text(visible(line[:SUMMARY_CHARACTERS] + "…") if cut else line)


def difference(view: View, marks: Marks) -> Group:
    """Show one row in full: question, the response against its rewrite, scores."""
    entry = view.sample
    heading = Text.assemble(
        (spaced(visible(entry.decision)), DECISION_STYLES.get(entry.decision, "")),
        (f"  {visible(entry.id)}", "dim"),
        (f"  {spaced(visible(view.reason))}" if view.reason else ""),
    )
    parts = [part for comparison in view.comparisons for part in compared(comparison, marks)]
    return Group(Rule(heading, align="left", style="dim"), Padding(whole(entry.question, "bold"), (1, 0)), *parts)


def compared(comparison: Comparison, marks: Marks) -> Iterator[Text | Padding]:
    """Show whose turn it was, the text before and after, and scores."""
    if step := comparison.step:
        turn = " · ".join(part for part in (step.member, step.decision, step.reason) if part)
        yield Text(f"step {step.step}: {spaced(visible(turn))}", "dim")
    yield marked(comparison, marks) if comparison.after.text else whole(comparison.before.text, "")
    scores = Grid(show_header=False, box=None, pad_edge=False)
    for name, before, after, difference in comparison.scores:
        scores.add_row(name, cell(before), "→", cell(after), difference)
    yield Padding(scores, (1, 0))


def marked(comparison: Comparison, marks: Marks) -> Text:
    """Show both texts in one.

    Struck through is what only the first has, underlined what only the second has.
    """
    text = Text()
    for span in comparison.spans:
        if span.is_same:
            text.append(visible(span.after))
            continue
        old, new = visible(span.before), visible(span.after)
        gap = " " if old.strip() and new.strip() else ""
        for words, mark, style in ((old, marks.old, "red strike"), (new, marks.new, "green underline")):
            if words.strip():
                text.append(gap if words is new else "")
                text.append(f"{mark[0]}{words.rstrip()}{mark[1]}", style)
        text.append((new or old)[len((new or old).rstrip()) :])
    for side in (comparison.before, comparison.after):
        if side.text is not None and side.text.cut:
            more = f"\n… {side.title.lower()}: {cell(side.text.characters)} characters in all"
            text.append(visible(more), "dim italic")
    return text


def whole(shown: Shown | None, style: str) -> Text:
    if shown is None:
        return Text("no text", "dim italic")
    text = Text(visible(shown.text), style)
    if shown.cut:
        text.append(visible(f"\n… {cell(shown.characters)} characters in all"), "dim italic")
    return text


def open_aligned(path: str, step: str = "") -> tuple[RecordedStage, Table]:
    """Return the align step of a run that has this name, by default the last that is done, and its corpus.

    Which one it is is said where there are several. Raises UsageError where there is none.
    """
    stages = open_run(path).of_kind("align")
    if step and step not in (names := [stage.name for stage in stages]):
        raise UsageError(f"step: {path} has no align step {step!r}; it has {', '.join(names) or 'none'}")
    done = [(stage, table) for stage in stages if (table := stage.table("aligned"))]
    chosen = [(stage, table) for stage, table in done if step in ("", stage.name)]
    if not chosen:
        raise UsageError(f"{path}: {step or 'align'} has not finished there; `alignbeam status {path}` says more")
    align, table = chosen[-1]
    if not step and len(done) > 1:
        others = ", ".join(stage.name for stage, _ in done if stage.name != align.name)
        messages.print(f"step {align.name}; --step shows another: {others}", soft_wrap=True)
    return align, table


def samples_of(table: Table, config: Config) -> Iterator[Sample]:
    """Return the rows asked for, in the corpus's order."""
    rows = (
        row
        for batch in table.batches(columns_of(table.schema))
        for row in select(batch, config.only, config.id).to_pylist()
    )
    return (sample(row) for row in islice(rows, config.limit))


def follow_refused(steps: Table | None, samples: Sequence[Sample]) -> None:
    """Give the rows that a guard refused their steps, which hold the rewrite it refused."""
    refused = [entry for entry in samples if entry.decision == "refused"]
    if refused and steps:
        give_steps(steps.batches(), refused)


def run(config: Config, _: Sequence[str] = ()) -> int:
    """Print the rows asked for."""
    align, table = open_aligned(config.run, config.step)
    samples = list(samples_of(table, config))
    if not samples:
        results.print("No row fits.")
    elif config.diff:
        follow_refused(align.table("trajectories"), samples)
        for view in views(align, samples):
            results.print(difference(view, STYLED if results.is_terminal else PLAIN))
    else:
        results.print(overview(samples))
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    about = {"program": "alignbeam show", "description": __doc__ or ""}
    return entrypoint.command_main(argv, Config, run, **about, runs_pipelines=False)


if __name__ == "__main__":
    sys.exit(main())
