"""Curate records for training: validity, leakage, duplicates, quotas, one split, training shards.

    alignbeam curate runs/mine/triples/1a2b3c -o runs/mine --config curate.yaml
    alignbeam curate questions.csv.gz -o data/questions --heldout data/evaluation
    alignbeam curate more.jsonl -o data/more --previous data/questions/curate/4d5e6f
    alignbeam curate questions.csv.gz -o data/questions --explain 0123456789abcdef

A file that is no table yet is imported first. Rows that break a rule or match a held-out question go first: no good row
is then dropped as the duplicate of one of them. The table `drops` has every dropped row with its reason, and README.md
of the stage's directory is a data card. Triples also give the shards that the trainers read, in `aligner/` and
`inspector/`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

from pipelines import curate, ingest
from pipelines.commands.explain import explain_row
from pipelines.runtime import entrypoint
from pipelines.runtime.beam import on_all_processors
from pipelines.runtime.stage import Stage
from schemas.command_line import setting
from schemas.errors import UsageError
from transforms.corpora import records
from transforms.corpora.fields import Kind, choose_columns
from transforms.curation.validity import rules_for
from transforms.tables import storage
from transforms.tables.table import MANIFEST, read_table


@dataclass(frozen=True, kw_only=True)
class Config(ingest.TripleFlags, curate.Config):
    input: str = setting("table of triples, responses or questions, or a file to import", positional=True)
    kind: Kind | None = setting("what to import the file as (default: by its columns)", None)
    explain: str | None = setting("say what every rule sees in the row of this id and what became of it; no more", None)


def import_input(config: Config, beam_arguments: Sequence[str]) -> Stage | None:
    """Import the input under the output, unless it is a table with `id` and `question`."""
    flags = {item.name: getattr(config, item.name) for item in fields(ingest.TripleFlags)}
    columns = {name.removesuffix("_column"): column for name, column in flags.items()}
    if storage.exists(storage.join(config.input, MANIFEST)):
        ingest.refuse_import_flags(config.input, flags)
        return None
    files = records.find_files(config.input)
    as_it_is = all(records.format_of(file) == "parquet" for file in files) and not any(columns.values())
    if as_it_is and {"id", "question"} <= set(read_table(config.input).schema.names):
        return None
    kind = config.kind or guess_kind(files[0], columns)
    settings = ingest.Config(corpus=config.input, output=storage.join(config.output, "input"), kind=kind, **flags)
    check = partial(curate.check_columns, config.input, config=config)
    return ingest.run(settings, beam_arguments, by_identity=True, check=check)


def guess_kind(path: str, columns: dict[str, str | None]) -> Kind:
    """Return the fullest kind of table that the file has columns for."""
    for kind in ("triples", "responses"):
        try:
            choose_columns(path, kind, columns)
            return kind
        except UsageError:
            continue
    return "questions"


def stage_config(config: Config, imported: Stage | None) -> curate.Config:
    """Return the stage's own settings, with the imported table as its input where there is one."""
    settings = {item.name: getattr(config, item.name) for item in fields(curate.Config)}
    return curate.Config(**settings | ({"input": imported.directory} if imported else {}))


def curate_input(config: Config, beam_arguments: Sequence[str] = ()) -> list[Stage]:
    """Import the input where it is no table yet, and curate it; return the stages done.

    With `explain` one row is explained instead.
    """
    storage.check_writable(config.output)
    references = curate.read_references(config)
    imported = import_input(config, on_all_processors(beam_arguments))
    settings = stage_config(config, imported)
    if config.explain is None:
        stage = curate.run(settings, beam_arguments, references)
        return [imported, stage] if imported else [stage]
    table = curate.open_table(settings)
    stage = curate.stage_for(settings, table, references)
    explain_row(config.explain, table, rules_for(config.validity), references.held_out, stage)
    return []


def run(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Curate the input, or explain one row; return the exit code."""
    return entrypoint.report_stages(*curate_input(config, beam_arguments))


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.command_main(argv, Config, run, program="alignbeam curate", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
