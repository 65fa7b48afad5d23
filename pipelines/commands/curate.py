"""Curate records for training: validity, leakage, duplicates, quotas, one split, training shards.

    alignbeam curate runs/mine/triples/1a2b3c -o runs/mine --config curate.yaml
    alignbeam curate questions.csv.gz -o data/questions --heldout data/evaluation
    alignbeam curate more.jsonl -o data/more --previous data/questions/curate/4d5e6f
    alignbeam curate questions.csv.gz -o data/questions --explain 0123456789abcdef

A file that is no table yet is imported first. Rows that break a rule or match a held-out question go first: no good row
is then dropped as the duplicate of one of them. The table `drops` has every dropped row with its reason, and README.md
of the stage's directory is a data card. Triples also give the shards that the trainers read, in steps of their own.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import pyarrow as pa

from pipelines import curate, ingest, shards
from pipelines.commands.explain import explain_row
from pipelines.runtime import entrypoint
from pipelines.runtime.at_work import at_work
from pipelines.runtime.runs import Record
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import Place, PlannedStep, TableSource
from pipelines.runtime.steps import Made, alone, check_outside, do_steps, open_step
from pipelines.runtime.training_shards import TRAINERS
from schemas.command_line import DONE
from schemas.console import messages
from schemas.errors import UsageError
from schemas.fields import setting
from schemas.tables import name_by_columns
from transforms.corpora import records
from transforms.corpora.fields import Kind, choose_columns
from transforms.curation.validity import rules_for
from transforms.tables import storage
from transforms.tables.table import MANIFEST, read_table
from transforms.training_data.shards import count_rows


@dataclass(frozen=True, kw_only=True)
class Config(ingest.TripleFlags, curate.Rules):
    input: str = setting("table of triples, responses or questions, or a file to import", positional=True)
    output: str = setting("run directory", short="-o")
    heldout: tuple[str, ...] = setting("questions to keep out: a table, file or folder; may be given again", ())
    previous: str | None = setting("curated table whose questions keep their splits; newcomers join them", None)
    rows_per_shard: int = setting("rows in a training shard", 10_000)
    kind: Kind | None = setting("what to import the file as (default: by its columns)", None)
    explain: str | None = setting("say what every rule sees in the row of this id and what became of it; no more", None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows_per_shard < 1:
            raise ValueError(f"rows_per_shard: must be at least 1, not {self.rows_per_shard}")


def import_config(config: Config) -> ingest.Config | None:
    """Return how the input is imported, None where it is a table with `id` and `question`."""
    flags = {item.name: getattr(config, item.name) for item in fields(ingest.TripleFlags)}
    columns = {name.removesuffix("_column"): column for name, column in flags.items()}
    if storage.exists(storage.join(config.input, MANIFEST)):
        ingest.refuse_import_flags(config.input, flags)
        return None
    files = records.find_files(config.input)
    as_it_is = all(records.format_of(file) == "parquet" for file in files) and not any(columns.values())
    if as_it_is and {"id", "question"} <= set(read_table(config.input).schema.names):
        return None
    ingest.check_apart(config.input, config.output)
    return ingest.Config(corpus=config.input, kind=config.kind or guess_kind(files[0], columns), **flags)


def guess_kind(path: str, columns: dict[str, str | None]) -> Kind:
    """Return the fullest kind of table that the file has columns for."""
    for kind in ("triples", "responses"):
        try:
            choose_columns(path, kind, columns)
            return kind
        except UsageError:
            continue
    return "questions"


def curate_config(config: Config) -> curate.Config:
    """Return the settings of the step, the held-out questions being read as they are."""
    rules = {item.name: getattr(config, item.name) for item in fields(curate.Rules)}
    return curate.Config(table=config.input, heldout_files=config.heldout, previous=config.previous, **rules)


def input_schema(config: Config, imported: ingest.Config | None) -> pa.Schema:
    """Return the columns of the table to curate, imported or not; UsageError where a file has none of use."""
    if imported is None:
        return read_table(config.input).schema
    return ingest.find_sources(imported)[0].schema


def planned_steps(config: Config, place: Place, beam_arguments: Sequence[str] = ()) -> list[PlannedStep]:
    """Return the steps: the import of a file, curating, and the shards of each trainer for triples.

    Raises UsageError where the input's columns are of no use, before anything is imported.
    """
    arguments = tuple(beam_arguments)
    own = curate_config(config)
    imported = import_config(config)
    ingest.KIND.recall(place)
    schema = input_schema(config, imported)
    curate.check_columns(config.input, schema, own)
    steps = []
    curating = alone(PlannedStep("curate", curate.KIND, own, beam_arguments=arguments))
    if imported:
        steps.append(PlannedStep("import", ingest.KIND, imported, beam_arguments=arguments))
        curating = replace(curating, sources={**curating.sources, "table": TableSource(step="import")})
    steps.append(curating)
    for trainer in TRAINERS if name_by_columns(schema) == "triples" else ():
        settings = shards.Config(data="curate", trainer=trainer, rows_per_shard=config.rows_per_shard)
        sources = {"data": TableSource(step="curate")}
        steps.append(PlannedStep(f"shards-{trainer}", shards.KIND, settings, sources, beam_arguments=arguments))
    return steps


def with_rows(stage: Stage, steps: Sequence[PlannedStep]) -> set[str]:
    """Return the names of those steps that make shards of a curated table and have a row to train on."""
    table, names = stage.table().head(None), set()
    for step in steps:
        if step.kind is not shards.KIND:
            continue
        column = TRAINERS[step.config.trainer].column
        if any(count_rows(table, column)["train"].values()):
            names.add(step.name)
        else:
            messages.print(f"{step.name}: left out, because no row has the {column} train", soft_wrap=True)
    return names


def explain(row: str, steps: Sequence[PlannedStep], place: Place, stages: dict[str, Stage]) -> None:
    """Print what curating does to a row; the input's import is done."""
    curating = next(step for step in steps if step.kind is curate.KIND)
    step = open_step(curating, {name: Made(stage) for name, stage in stages.items()}, place)
    held_out = curate.references_of(curating.config, step).held_out
    explain_row(row, step.table("table"), rules_for(curating.config.validity), held_out, step.stage)


def run(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Curate the input, or explain one row; return the exit code."""
    place, record = Place(config.output), Record(config.output, seed=config.seed)
    storage.check_writable(config.output)
    steps = planned_steps(config, place, beam_arguments)
    check_outside(steps, place)
    with at_work(config.output):
        if config.explain is not None:
            explain(config.explain, steps, place, do_steps(steps, record, place, chosen={"import"}))
            return DONE
        stages = do_steps(steps, record, place, chosen={"import", "curate"})
        stages = do_steps(steps, record, place, chosen=with_rows(stages["curate"], steps))
    return entrypoint.report_stages(*stages.values())


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.command_main(argv, Config, run, program="alignbeam curate", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
