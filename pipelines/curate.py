"""Curate records for training: validity, leakage, duplicates, one split, training shards.

    alignbeam curate runs/mine/triples/1a2b3c -o runs/mine --config curate.yaml
    alignbeam curate questions.csv.gz -o data/questions --heldout data/evaluation

Rows that break a rule, or match a held-out question, go first, so that none of them is kept on whose account a good one
is dropped as its duplicate. What is dropped stands in the table `drops` with its reason. Triples also give the shards
that the trainers read, in `aligner/` and `inspector/` of the stage's directory.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines import entrypoint, ingest, stages
from schemas.command_line import setting
from schemas.errors import UsageError
from transforms import corpora, storage
from transforms.columns import check_free, check_texts
from transforms.decisions import Keyed, OpenShards, decisions_of
from transforms.duplicates import DropExactDuplicates, DropNearDuplicates, buckets_for
from transforms.engines.encoder import model_digest
from transforms.leakage import HeldOut, drop_leaked, index_held_out, read_held_out
from transforms.near_duplicates import Similarity
from transforms.split import AlikePairs, ClusterQuestions, Shares, assign_splits
from transforms.tables import MANIFEST, MapBatches, ReadTable, SplitMarks, Table, WriteTables, read_table
from transforms.training_shards import TRAINERS, Trainer, WriteTrainingShards, count_rows, plan_shards
from transforms.validity import TEXT_COLUMNS, drop_invalid, readable_text, rules_for

SPLIT_COLUMNS = ("split", "inspector_split", "cluster")
DROP_COLUMNS = ("drop_reason", "duplicate_of", "leaked_from")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe may set. The paper's own: 70/15/15, the inspector's 80/10/10 inside train (app. C)."""

    english_plain_text: bool = setting("also drop what only makes no sense in plain English text (the paper's)", False)
    max_chars: int = setting("drop rows with a longer text", 100_000)
    skip_rules: tuple[str, ...] = setting("leave out a validity rule; may be given again", ())
    duplicate_columns: tuple[str, ...] = setting("compare rows by these (default: all of question and answers)", ())
    similarity: Similarity = field(default_factory=lambda: Similarity(words=3, jaccard=0.8))
    heldout: tuple[str, ...] = setting("questions to keep out: a table, file or folder; may be given again", ())
    heldout_column: str | None = setting("column of the held-out questions", None)
    overlap_words: int = setting("words in a row that a question may not share with a held-out one", 13)
    shares: Shares = (0.70, 0.15, 0.15)
    inspector_shares: Shares = (0.80, 0.10, 0.10)
    max_pair_similarity: float | None = setting("leave pairs as alike as this (cosine) to the aligner alone", None)
    embedder: str = setting("folder of the encoder that max_pair_similarity is measured with", "")
    rows_per_shard: int = setting("rows in a training shard", 10_000)
    minimum_yield: float = setting("stop if a smaller share of the rows survives", 0.1)

    def __post_init__(self) -> None:
        for name in ("max_chars", "overlap_words", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, not {getattr(self, name)}")
        for name in ("shares", "inspector_shares"):
            given = getattr(self, name)
            if min(given) < 0 or abs(sum(given) - 1) > 1e-6:
                raise ValueError(f"{name}: must be three shares that make 1, not {given}")
        if self.max_pair_similarity is not None and not self.embedder:
            raise ValueError("max_pair_similarity: needs an encoder; give its folder as embedder")
        rules_for(english_plain_text=True, max_chars=self.max_chars, skip=self.skip_rules)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    input: str = setting("table of triples, responses or questions, or a file to import", positional=True)
    output: str = setting("run directory", short="-o")
    kind: corpora.Kind | None = setting("what to import the file as (default: by its columns)", None)
    question_column: str | None = setting("column of the question", None)
    response_column: str | None = setting("column of the response", None)
    correction_column: str | None = setting("column of the better response", None)
    seed: int = setting("integer seed of the splits", 0)


def import_input(config: Config, beam_arguments: Sequence[str]) -> stages.Stage | None:
    """Import the input under the output, unless it is a table with `id` and `question`."""
    given = {name: getattr(config, f"{name}_column") for name in TEXT_COLUMNS}
    if storage.exists(storage.join(config.input, MANIFEST)):
        ingest.refuse_column_flags(config.input, given)
        return None
    files = corpora.find_files(config.input)
    as_it_is = all(corpora.format_of(file) == "parquet" for file in files) and not any(given.values())
    if as_it_is and {"id", "question"} <= set(read_table(config.input).schema.names):
        return None
    kind = config.kind or guess_kind(files[0], given)
    columns = {f"{name}_column": column for name, column in given.items()}
    settings = ingest.Config(corpus=config.input, output=storage.join(config.output, "input"), kind=kind, **columns)
    return ingest.run(settings, beam_arguments, by_identity=True)


def guess_kind(path: str, given: dict[str, str | None]) -> corpora.Kind:
    """The fullest kind of table that the file has columns for."""
    for kind in ("triples", "responses"):
        try:
            corpora.choose_columns(path, kind, given)
            return kind
        except UsageError:
            continue
    return "questions"


def check_columns(path: str, schema: pa.Schema, compared: Sequence[str]) -> None:
    """UsageError where a text column is missing or is not text, or a column has a name that curating gives."""
    texts = [name for name in TEXT_COLUMNS if name in schema.names]
    check_texts(path, schema, dict.fromkeys(["id", "question", *compared, *texts]))
    check_free(path, schema, (*SPLIT_COLUMNS, *DROP_COLUMNS, "error"), "curate")


def compared_columns(config: Config, table: Table) -> tuple[str, ...]:
    return config.duplicate_columns or tuple(name for name in TEXT_COLUMNS if name in table.schema.names)


def stage_for(config: Config, table: Table, held_out: HeldOut) -> stages.Stage:
    settings = {item.name: getattr(config, item.name) for item in fields(Settings)}
    for name in ("heldout", "heldout_column", "minimum_yield"):
        del settings[name]
    identity = settings | {
        "input": table.digest,
        "similarity": asdict(config.similarity),
        "heldout": held_out.digest,
        "embedder": model_digest(config.embedder) if config.embedder else None,
        "seed": config.seed,
    }
    return stages.Stage.under(config.output, "curate", identity)


def is_triples(table: Table) -> bool:
    return set(TEXT_COLUMNS) <= set(table.schema.names)


def main_name(table: Table) -> str:
    names = table.schema.names
    return "triples" if is_triples(table) else "responses" if "response" in names else "questions"


def build(config: Config, table: Table, held_out: HeldOut, stage: stages.Stage, root: beam.Pipeline) -> None:
    compared = compared_columns(config, table)
    rules = rules_for(english_plain_text=config.english_plain_text, max_chars=config.max_chars, skip=config.skip_rules)
    alike = None if config.max_pair_similarity is None else AlikePairs(config.embedder, config.max_pair_similarity)
    splits = partial(
        assign_splits, shares=config.shares, inspector_shares=config.inspector_shares, seed=config.seed, alike=alike
    )
    text = {name: pa.string() for name in (*SPLIT_COLUMNS, *DROP_COLUMNS)}
    schemas = {
        main_name(table): pa.schema([*table.schema, *((name, text[name]) for name in SPLIT_COLUMNS)]),
        "drops": pa.schema([*table.schema, *((name, text[name]) for name in DROP_COLUMNS)]),
    }

    judged = (
        root
        | "Read" >> ReadTable(table)
        | "Judge" >> MapBatches(partial(drop_invalid, rules=rules), partial(drop_leaked, held_out=held_out))
    )
    invalid = judged | "Invalid" >> beam.FlatMap(decisions_of).with_output_types(Keyed)
    exact = judged | "ExactDuplicates" >> DropExactDuplicates(compared, buckets_for(table))
    near = (
        (invalid, exact)
        | "Repeated" >> beam.Flatten()
        | "OpenDistinct" >> OpenShards(table, "near-duplicates", list(compared))
        | "NearDuplicates" >> DropNearDuplicates(table, compared, config.similarity)
    )
    decisions: tuple[beam.PCollection[Keyed], ...] = (invalid, exact, near)
    if compared != ("question",):  # else what is left has no near-duplicates any more
        clusters = (
            decisions
            | "Dropped" >> beam.Flatten()
            | "OpenQuestions" >> OpenShards(table, "clusters", ["question"])
            | "ClusterQuestions" >> ClusterQuestions(table, config.similarity)
        )
        decisions = (*decisions, clusters)
    (
        decisions
        | "Decisions" >> beam.Flatten()
        | "OpenAll" >> OpenShards(table, "curate", skip=stage.done_shards())
        | "Split" >> MapBatches(readable_text, splits)
        | "Write" >> WriteTables(stage.directory, schemas, SplitMarks(main_name(table)), len(table.shards), stage.about)
    )


def write_training_shards(config: Config, stage: stages.Stage, trainer: Trainer, beam_arguments: Sequence[str]) -> None:
    """A trainer's shards, beside the curated triples; those that are there already stay."""
    curated = stage.table().head(None)
    shards = stages.Stage(storage.join(stage.directory, trainer.name), trainer.name, {"curated": stage.digest})
    if not shards.is_complete:
        triples_per_shard = max(config.rows_per_shard // trainer.rows_per_triple, 1)
        plan = plan_shards(count_rows(curated, trainer.column), triples_per_shard)
        done = shards.done_shards()
        write = WriteTrainingShards(curated, trainer, plan, shards.directory, shards.about, done)
        stages.run_pipeline(lambda root: root | write, beam_arguments)


def run(config: Config, beam_arguments: Sequence[str] = ()) -> stages.Stage:
    """Write the curated table, what was dropped, and training shards where the table holds triples."""
    return run_with_import(config, beam_arguments)[-1]


def run_with_import(config: Config, beam_arguments: Sequence[str] = ()) -> list[stages.Stage]:
    """As `run`; before the stage stands the import, where the input had to be imported."""
    storage.check_writable(config.output)
    held_out = index_held_out(
        read_held_out(config.heldout, config.heldout_column), config.similarity, config.overlap_words
    )
    imported = import_input(config, beam_arguments)
    table = read_table(imported.directory if imported else config.input).head(None)
    check_columns(config.input, table.schema, compared_columns(config, table))
    stage = stage_for(config, table, held_out)
    stages.complete(
        stage,
        lambda root: build(config, table, held_out, stage, root),
        beam_arguments,
        rows=table.rows,
    )
    stages.check_yield(stage, config.minimum_yield)
    for trainer in TRAINERS if is_triples(table) else ():
        write_training_shards(config, stage, trainer, beam_arguments)
    return [imported, stage] if imported else [stage]


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run_with_import, program="alignbeam curate", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
