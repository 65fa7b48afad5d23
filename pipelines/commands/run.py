"""Run a recipe: from a criterion in plain text to an aligned corpus, its evaluation and a report.

    alignbeam run recipe.yaml --model Qwen/Qwen3-8B -o runs/mine --limit 50
    alignbeam run recipe.yaml --model Qwen/Qwen3-8B -o runs/mine --plan
    alignbeam run recipe.yaml --model Qwen/Qwen3-8B -o runs/mine --only curate

The same command again goes on where it stopped; after an edit each stage that it touches says why and is done again.

A recipe may have several criteria. Then everything up to the trained models is done in OUTPUT/CRITERION, a run of its
own for each, and OUTPUT has the squad: its file, held-out responses aligned with it, their evaluation and the report.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table as Grid

from pipelines import questions
from pipelines.recipe.inputs import check_inputs, check_output
from pipelines.recipe.job import Job, models_of
from pipelines.recipe.plan import plan_recipes, topic_growth
from pipelines.recipe.recipe import COMPARED, OF_A_SQUAD, OF_ONE_CRITERION, STAGES, Config, parted
from pipelines.report.page import write
from pipelines.runtime import entrypoint
from pipelines.runtime.estimates import print_plan
from pipelines.runtime.runs import open_run
from pipelines.runtime.stage import observed
from schemas.command_line import DONE, DONE_WITH_REJECTS
from schemas.console import messages
from schemas.criteria.pack import load_pack
from schemas.settings import to_dict


def run(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Do the stages in order; return the exit code."""
    if config.plan:
        return say_plan(config)
    check_inputs(config)
    check_output(config)
    job = Job(config, beam_arguments)
    job.record.open(to_dict(config), [member.name for member in job.members if member is not job])
    if not config.is_squad:
        return run_stages(job, STAGES)
    codes = []
    for member in job.members:
        member.record.open(to_dict(member.config))
        codes.append(run_stages(member, [name for name in OF_ONE_CRITERION if config.only in (None, name)]))
    codes.append(run_stages(job, OF_A_SQUAD))
    return max(codes)


def run_stages(job: Job, names: Sequence[str]) -> int:
    """Do those of a job's stages that the command asks for; return the exit code."""
    config, rejects = job.config, 0
    names = [name for name in names if config.only in (None, name)]
    if not config.stages.align.compare:
        names = [name for name in names if name not in COMPARED]
    for name in names:
        if name == "report":
            messages.print(f"report: {write(config.output)}", soft_wrap=True)
            continue
        started = time.monotonic()
        job.reads.clear()
        heading = f"{name} ({job.name})" if job.home != config.output else name
        messages.print(heading, style="bold")
        try:
            with observed(job.announce):
                stage = getattr(job, name)()
        except BaseException:
            job.record.write_failure(name, time.monotonic() - started)
            raise
        job.results[name] = stage
        job.record.write_stage(stage, "complete", time.monotonic() - started, models_of(config), job.inputs())
        counts = stage.read_manifest()["counts"]
        messages.print(f"  {counts['kept']:,} of {counts['in']:,} rows")
        rejects += sum(counts["rejects"].values())
    if names:
        print_summary(config.output)
    return DONE_WITH_REJECTS if rejects else DONE


def say_plan(config: Config) -> int:
    """Print the recipe's cost, and where it misses its count; return the exit code."""
    packs = [load_pack(criterion) for criterion in config.criteria]
    recipes = list(parted(config, [pack.name for pack in packs])) if config.is_squad else [config]
    turns = config.stages.align.rounds or len(packs)
    code = print_plan(plan_recipes(recipes, packs, turns))
    for recipe, pack in zip(recipes, packs, strict=True):
        settings = recipe.stages.questions
        settings = replace(settings, count=min(settings.count, config.limit or settings.count))
        _, topics = topic_growth(settings, pack)
        if text := questions.shortfall(settings, topics, topics):
            text = f"{pack.name}: {text}" if config.is_squad else text
            messages.print(f"at most, {text}", soft_wrap=True)
    return code


def print_summary(output: str) -> None:
    grid = Grid(box=None, pad_edge=False)
    for heading in ("stage", "status", "in", "kept", "seconds"):
        grid.add_column(heading, justify="left" if heading in ("stage", "status") else "right")
    for stage in open_run(output).stages:
        counts = (stage.manifest or {"counts": {"in": 0, "kept": 0}})["counts"]
        seconds = f"{stage.seconds or 0:,.1f}"
        grid.add_row(stage.name, stage.status, f"{counts['in']:,}", f"{counts['kept']:,}", seconds)
    messages.print(grid)


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.command_main(argv, Config, run, program="alignbeam run", description=__doc__, file_flag="recipe")


if __name__ == "__main__":
    sys.exit(main())
