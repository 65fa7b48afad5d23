"""Judge an aligned corpus: is each aligned text better than the response it replaced?

    alignbeam evaluate out --inspector models/judge -o out
    alignbeam evaluate out --inspector strict=models/judge --pair-ranker models/ranker --two-way hhh.jsonl.gz -o out
    alignbeam evaluate out --inspector models/judge --by question_type -o out

Win rate as paper 000, app. F defines it (wins / all rows), wins / decided rows, ties; two-way accuracy on files with a
right and a wrong option; shift of scores; change of length and edit distance. Written to metrics.json and as a table.
Of a run with several alignments all are judged, on the rows that all of them have.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines import evaluate, ingest
from pipelines.runtime import entrypoint
from pipelines.runtime.at_work import at_work
from pipelines.runtime.runs import DONE, Record, RecordedStage, is_run, open_run
from pipelines.runtime.step import Place, PlannedStep, TableSource
from pipelines.runtime.steps import alone, check_outside, do_steps, open_step
from schemas.console import messages
from schemas.errors import UsageError
from schemas.fields import Seed, setting
from schemas.names import check_name
from schemas.settings import validated
from schemas.urls import without_query
from transforms.tables import storage

NAME = evaluate.KIND.name


@dataclass(frozen=True, kw_only=True)
class Config:
    aligned: str = setting("run directory of `alignbeam align`, or a table with response and aligned", positional=True)
    output: str = setting("run directory for the results", short="-o")
    inspector: tuple[str, ...] = setting("a judge: FOLDER or NAME=FOLDER of an inspector; may be repeated", ())
    pair_ranker: str = setting("a judge: folder of converted pair-ranker weights", "")
    two_way: tuple[str, ...] = setting("file of items with columns prompt, chosen, rejected; may be repeated", ())
    by: tuple[str, ...] = setting("column whose categories get figures of their own; may be repeated", ())
    minimum_shared: float = setting("stop if a smaller share of the rows is judged in every alignment", 0.5)
    seed: Seed = setting("seed of the bootstrap intervals", 0)

    def __post_init__(self) -> None:
        if not self.inspector and not self.pair_ranker:
            raise ValueError("inspector, pair_ranker: give at least one judge")

    def judging(self, alignments: Mapping[str, str]) -> evaluate.Config:
        """Return what is judged by whom: alignments of a run, or else the table; UsageError for what does not fit."""
        settings = {
            "aligned": alignments if len(alignments) > 1 else next(iter(alignments.values()), self.aligned),
            "inspectors": evaluate.by_name("inspector", self.inspector),
            "pair_ranker": self.pair_ranker,
            "by": self.by,
            "minimum_shared": self.minimum_shared,
            "seed": self.seed,
        }
        return validated(evaluate.Config, "evaluate", settings)


def find_alignments(path: str) -> list[RecordedStage]:
    """Return the finished alignments of a run, none where the path is no run.

    Raises UsageError where a run has none.
    """
    if not is_run(path):
        return []
    alignments = open_run(path).of_kind("align")
    finished = [align for align in alignments if align.status == DONE]
    if not finished:
        raise UsageError(f"{path}: no aligned corpus in this run; finish alignbeam align first")
    for align in alignments:
        if align not in finished:
            messages.print(f"left out: {align.name} is {align.status}", soft_wrap=True)
    return finished


def planned_import(name: str, path: str, beam_arguments: Sequence[str]) -> PlannedStep:
    """Return the import of a file of two-way items as triples, of which the response is the wrong option."""
    items = ingest.Config(corpus=path, kind="triples", response_column="rejected")
    step_name = check_name(f"two_way/{name}", path)
    return alone(PlannedStep(step_name, ingest.KIND, items, beam_arguments=tuple(beam_arguments)))


def imports(paths: Sequence[str], beam_arguments: Sequence[str]) -> Iterator[tuple[str, PlannedStep]]:
    """Yield the import of each file, after what the figures call the file: its name, its path where two agree."""
    paths = list(dict.fromkeys(paths))
    names = [without_query(path).rsplit("/", 1)[-1].split(".")[0] for path in paths]
    for number, (name, path) in enumerate(zip(names, paths, strict=True), 1):
        label, step_name = (path, f"{name}-{number}") if names.count(name) > 1 else (name, name)
        yield label, planned_import(step_name, path, beam_arguments)


def run(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Judge the corpus and list the evaluation in the run; return the exit code.

    The two-way files are imported first.
    """
    storage.check_writable(config.output)
    paths = {align.name: align.path for align in find_alignments(config.aligned)}
    judging = config.judging(paths)
    planned = alone(PlannedStep(NAME, evaluate.KIND, judging, beam_arguments=tuple(beam_arguments)))
    place = Place(config.output)
    two_way = dict(imports(config.two_way, beam_arguments))
    check_outside([planned, *two_way.values()], place)
    evaluate.check_tables(judging, open_step(planned, {}, place))  # before anything is imported
    items = {f"two_way.{label}": TableSource(step=step.name) for label, step in two_way.items()}
    planned = replace(
        planned,
        config=replace(judging, two_way={label: step.name for label, step in two_way.items()}),
        sources={**planned.sources, **items},
    )
    record = Record(config.output)
    with at_work(config.output):
        stages = do_steps([*two_way.values(), planned], record, place)
        if config.aligned.rstrip("/") == config.output.rstrip("/"):  # what was judged are steps of the same run
            record.write_step(replace(planned, after=tuple(paths)), stages[NAME], DONE)
    return entrypoint.report_stages(*stages.values())


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.command_main(argv, Config, run, program="alignbeam evaluate", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
