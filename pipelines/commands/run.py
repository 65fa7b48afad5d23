"""Run a recipe: from a criterion in plain text to an aligned corpus, its evaluation and a report.

    alignbeam run recipe.yaml -o runs/mine --limit 50
    alignbeam run recipe.yaml -o runs/mine --plan                       what it would cost; nothing is loaded
    alignbeam run recipe.yaml -o runs/mine --until curated              that step, and what it needs
    alignbeam run recipe.yaml -o runs/mine --only 'civic/*'             those alone
    alignbeam run recipe.yaml -o runs/mine --set steps.questions.count=50 --model teacher=Qwen/Qwen3-8B

A recipe is a file, or the name of one that comes along. The same command again goes on where it stopped; after an edit
each step that it touches says why and is done again, with every completion that still fits.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import ingest
from pipelines.recipe.graph import NOTHING_TOLD, Graph, Told, print_steps, read_graph
from pipelines.recipe.outlook import print_outlook
from pipelines.recipe.registry import STAGES
from pipelines.report.page import write
from pipelines.runtime import entrypoint
from pipelines.runtime.at_work import at_work
from pipelines.runtime.beam import checked_options
from pipelines.runtime.runs import Record, models_of, open_run
from pipelines.runtime.stage import Stage
from pipelines.runtime.standings import Standing, note, survey
from pipelines.runtime.step import Place, StageKind
from pipelines.runtime.steps import can_retry, check_trainers, do_steps
from schemas.command_line import DONE, DONE_WITH_REJECTS, check_limit, config_parser, exit_code, flag_values
from schemas.console import messages
from schemas.errors import StageError, UsageError
from schemas.fields import setting
from schemas.settings import parse_assignments, validated
from transforms.tables import storage


@dataclass(frozen=True, kw_only=True)
class Config:
    recipe: str = setting("a recipe file, or the name of a recipe that comes along", positional=True)
    output: str = setting("run directory", short="-o")
    model: tuple[str, ...] = setting("NAME=ID: the model of an entry; ID alone: of generators that name none", ())
    limit: int | None = setting("at most so many rows, wherever a step has a number of them", None)
    only: str | None = setting("do these steps alone: a name or a pattern such as 'civic/*'", None)
    from_: str | None = setting("do these steps and those that need them", None, flag="--from")
    until: str | None = setting("do these steps and those that they need", None)
    redo: str | None = setting("do these steps anew, whatever is there", None)
    keep_going: bool = setting("after a failure, do the steps that do not need the failed one", False)
    retry_failed: bool = setting("ask again for the rows that failed", False)
    plan: bool = setting("say what the steps would cost, and stop", False)
    print_steps: bool = setting(
        "print every step with all it takes and is set to, and stop", False, also="--print-config"
    )
    beam: tuple[str, ...] = setting("'PATTERN=ARGS': arguments for Beam of the steps that match", ())
    launch: str = setting("how trainers are started, such as 'torchrun --nproc-per-node 8'", "")
    cache: str = setting("directory of the response cache (default: OUTPUT/cache)", "")
    work: str = setting("local folder where trainers work, if the output is a store", "")

    def __post_init__(self) -> None:
        check_limit(self.limit)
        if self.only and (self.from_ or self.until):
            raise ValueError("only: does these steps alone; leave out --from and --until")
        for text in self.beam:
            if "=" not in text:
                raise ValueError(f"beam: expected PATTERN=ARGS, such as 'align*=--runner=FlinkRunner', not {text!r}")


def told_by(config: Config, sets: Mapping[str, Any], beam_arguments: Sequence[str]) -> Told:
    """Return what a command adds to its recipe; UsageError for Beam's arguments that Beam does not know."""
    models: dict[str, str] = {}
    for text in config.model:
        name, equals, model = text.partition("=")
        models |= {name: model} if equals else {"": text}
    beam = [("*", tuple(beam_arguments))]
    for text in config.beam:
        pattern, _, arguments = text.partition("=")
        beam.append((pattern, tuple(shlex.split(arguments))))
    for _, parts in beam:
        checked_options(parts)
    return Told(sets, models, config.limit, tuple(beam))


def run(
    config: Config,
    told: Told = NOTHING_TOLD,
    *,
    recipe: Mapping[str, Any] | None = None,
    stages: Mapping[str, StageKind] = STAGES,
) -> int:
    """Do the steps of a recipe that are not done; return the exit code.

    recipe: a mapping in place of the file that the config names.
    """
    place = Place(config.output, config.cache, config.retry_failed, config.work, config.launch)
    graph = read_graph(recipe if recipe is not None else config.recipe, stages, told, place, looks_outside=True)
    chosen = graph.chosen(config.only, config.from_, config.until)
    if config.print_steps:
        return print_steps(graph)
    if config.plan:
        return print_outlook(graph, chosen, place)
    redo = graph.matching(config.redo, "--redo") if config.redo else frozenset()
    if redo and not redo & chosen:
        raise UsageError(f"--redo {config.redo}: none of these steps is to be done; choose them too, or leave it out")
    check(graph, chosen, place)
    with at_work(config.output):
        record = Record(config.output, graph.name, graph.seed, graph.toy)
        standings = survey(graph.steps, record, place)
        check_inputs(standings, chosen)
        models = {name: model for step in graph.steps for name, model in models_of(step).items()}
        record.open(graph.steps, graph.recipe, models)
        note(standings, record)
        if place.retry_failed:
            say_what_is_asked_again(standings, chosen)
        try:
            made = do_steps(graph.steps, record, place, chosen=chosen, redo=redo, keep_going=config.keep_going)
        except (StageError, UsageError):
            try:
                finish(graph, record, place)
            except UsageError as error:  # what stopped the run is told last
                messages.print(f"no report: {error}", soft_wrap=True)
            raise
        finish(graph, record, place)
    return exit_code_of(made, chosen)


def check(graph: Graph, chosen: frozenset[str], place: Place) -> None:
    """Raise UsageError for what is wrong outside the recipe with the steps to be done, before any work."""
    steps = [step for step in graph.steps if step.name in chosen]
    for step in steps:
        if isinstance(step.config, ingest.Config):
            ingest.check_apart(step.config.corpus, place.output)
        step.kind.recall(place)
    graph.check_outside(chosen)
    check_trainers(steps, place)
    storage.check_writable(place.output)


def check_inputs(standings: Sequence[Standing], chosen: frozenset[str]) -> None:
    """Raise UsageError where a step to be done needs one that is not done, and that is not to be done either."""
    of_step = {standing.name: standing for standing in standings}
    problems = [
        f"{name}: its input {needed} is not complete ({of_step[needed]}); do it too: --until {name}"
        for name in of_step
        if name in chosen
        for needed in of_step[name].planned.needs
        if needed not in chosen and not of_step[needed].is_done
    ]
    if problems:
        raise UsageError("\n".join(problems))


def say_what_is_asked_again(standings: Sequence[Standing], chosen: frozenset[str]) -> None:
    """Print which steps have rows that failed, and what becomes stale where asking again brings rows."""
    again: list[str] = []
    after: list[str] = []
    for standing in standings:
        if {*again, *after} & set(standing.planned.needs):
            after.append(standing.name)
        elif standing.step and standing.name in chosen and can_retry(standing.planned, standing.step.stage):
            again.append(standing.name)
    messages.print(f"asked again: {', '.join(again) or 'nothing failed'}", soft_wrap=True)
    if after:
        messages.print(f"stale where that brings rows: {', '.join(after)}", soft_wrap=True)


def rejects_of(stage: Stage) -> int:
    return sum(stage.read_manifest()["counts"]["rejects"].values()) if stage.is_done() else 0


def exit_code_of(made: Mapping[str, Stage], chosen: frozenset[str]) -> int:
    rejects = sum(rejects_of(stage) for name, stage in made.items() if name in chosen)
    return DONE_WITH_REJECTS if rejects else DONE


def finish(graph: Graph, record: Record, place: Place) -> None:
    """Write down and print how the steps stand now, and write the report."""
    note(survey(graph.steps, record, place), record)
    entrypoint.print_summary(open_run(place.output))
    messages.print(f"report: {write(place.output)}", soft_wrap=True)


def recipe_main(
    argv: Sequence[str] | None,
    config_class: type[Config],
    do: Callable[[Any, Told], int],
    *,
    program: str,
    description: str | None,
) -> int:
    """Parse the command line of a command that runs a recipe, whose settings --set gives; return the exit code."""
    own, beam_arguments = entrypoint.split_beam_arguments(list(sys.argv[1:] if argv is None else argv))
    about = {"program": program, "description": description or "", "epilog": entrypoint.FLAGS_OF_BEAM}
    parser = config_parser(config_class, **about, file_flag=None)

    def command() -> int:
        parsed = parser.parse_args(own)
        config = validated(config_class, "flags", flag_values(config_class, parsed))
        return do(config, told_by(config, parse_assignments(parsed.set), beam_arguments))

    return exit_code(command)


def main(argv: Sequence[str] | None = None) -> int:
    return recipe_main(argv, Config, run, program="alignbeam run", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
