"""Curate records for training: validity, leakage, duplicates, quotas, one split, training shards.

    alignbeam curate runs/mine/triples/1a2b3c -o runs/mine --config curate.yaml
    alignbeam curate questions.csv.gz -o data/questions --heldout data/evaluation
    alignbeam curate more.jsonl -o data/more --previous data/questions/curate/4d5e6f
    alignbeam curate questions.csv.gz -o data/questions --explain 0123456789abcdef

Rows that break a rule, or match a held-out question, go first, so that none of them is kept on whose account a good one
is dropped as its duplicate. What is dropped stands in the table `drops` with its reason, and README.md of the stage's
directory is a data card. Triples also give the shards that the trainers read, in `aligner/` and `inspector/`.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines import ingest
from pipelines.explain import explain_row
from pipelines.report.data_card import data_card
from pipelines.runtime import entrypoint, runs
from pipelines.runtime.beam import on_all_processors, run_pipeline
from pipelines.runtime.stage import Stage, check_yield, complete
from schemas.command_line import setting
from schemas.errors import UsageError
from schemas.tables import DROP_COLUMNS, SPLIT_COLUMNS
from transforms.corpora import records
from transforms.corpora.fields import Kind, choose_columns
from transforms.curation.decisions import OpenShards, decisions_of
from transforms.curation.duplicates import DropDuplicates
from transforms.curation.leakage import HeldOut, drop_leaked, index_held_out, quote_leaks, read_held_out
from transforms.curation.novelty import DropNotNovel
from transforms.curation.preference import FIRST, LONGEST, Preference, buckets_for
from transforms.curation.quotas import DropOverQuota
from transforms.curation.semantic import DropSameMeaning, Semantic
from transforms.curation.split import AlikePairs, ClusterQuestions, Shares, SplitBefore, assign_splits
from transforms.curation.validity import TEXT_COLUMNS, Validity, drop_invalid, readable_text, rules_for
from transforms.engines.encoder import model_digest
from transforms.tables import storage
from transforms.tables.chunks import HASHED_ROWS, Keyed, MapBatches
from transforms.tables.columns import check_free, check_texts
from transforms.tables.read import ReadTable
from transforms.tables.table import MANIFEST, Table, read_table
from transforms.tables.write import SplitMarks, WriteTables
from transforms.texts.near_duplicates import Similarity
from transforms.training_data.shards import TRAINERS, Trainer, WriteTrainingShards, count_rows, plan_shards


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe may set. The paper's own: 70/15/15, the inspector's 80/10/10 inside train (app. C)."""

    validity: Validity = field(default_factory=Validity)
    duplicate_columns: tuple[str, ...] = setting("compare rows by these (default: all of question and answers)", ())
    similarity: Similarity = field(default_factory=lambda: Similarity(words=3, jaccard=0.8))
    keep: str = setting("which of alike rows stays: first (by id), longest, or a column whose highest number", FIRST)
    max_rouge_l: float | None = setting("drop questions with a higher ROUGE-L to a kept one (Self-Instruct: 0.7)", None)
    max_cosine: float | None = setting("drop questions with a higher cosine to a kept one, by embedder", None)
    heldout: tuple[str, ...] = setting("questions to keep out: a table, file or folder; may be given again", ())
    heldout_column: str | None = setting("column of the held-out questions", None)
    overlap_words: int = setting("words in a row that a question may not share with a held-out one", 13)
    quotas: dict[str, int] = field(default_factory=dict)  # by column, the most rows for each of its values
    shares: tuple[float, float, float] = (0.70, 0.15, 0.15)
    inspector_shares: tuple[float, float, float] = (0.80, 0.10, 0.10)
    previous: str | None = setting("curated table whose questions keep their splits; newcomers join them", None)
    max_pair_similarity: float | None = setting("leave pairs as alike as this (cosine) to the aligner alone", None)
    embedder: str = setting("folder of the encoder of max_cosine and max_pair_similarity", "")
    rows_per_shard: int = setting("rows in a training shard", 10_000)
    minimum_yield: float = setting("stop if a smaller share of the rows survives", 0.1)

    def __post_init__(self) -> None:
        for name in ("overlap_words", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, not {getattr(self, name)}")
        for name in ("shares", "inspector_shares"):
            given = getattr(self, name)
            if min(given) < 0 or abs(sum(given) - 1) > 1e-6:
                raise ValueError(f"{name}: must be three shares that make 1, not {given}")
        for name in ("max_rouge_l", "max_cosine"):
            if (limit := getattr(self, name)) is not None and not 0 < limit <= 1:
                raise ValueError(f"{name}: {limit} is not a similarity above 0 and up to 1")
        for name in ("max_pair_similarity", "max_cosine"):
            if getattr(self, name) is not None and not self.embedder:
                raise ValueError(f"{name}: needs an encoder; give its folder as embedder")
        for column, most in self.quotas.items():
            if most < 1:
                raise ValueError(f"quotas.{column}: must be at least 1, not {most}")


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    input: str = setting("table of triples, responses or questions, or a file to import", positional=True)
    output: str = setting("run directory", short="-o")
    kind: Kind | None = setting("what to import the file as (default: by its columns)", None)
    question_column: str | None = setting("column of the question", None)
    response_column: str | None = setting("column of the response", None)
    correction_column: str | None = setting("column of the better response", None)
    seed: int = setting("integer seed of the splits and of the draw for quotas", 0)
    explain: str | None = setting("say what every rule sees in the row of this id and what became of it; no more", None)


def import_input(config: Config, beam_arguments: Sequence[str]) -> Stage | None:
    """Import the input under the output, unless it is a table with `id` and `question`."""
    given = {name: getattr(config, f"{name}_column") for name in TEXT_COLUMNS}
    flags = {f"{name}_column": column for name, column in given.items()}
    if storage.exists(storage.join(config.input, MANIFEST)):
        ingest.refuse_import_flags(config.input, flags)
        return None
    files = records.find_files(config.input)
    as_it_is = all(records.format_of(file) == "parquet" for file in files) and not any(given.values())
    if as_it_is and {"id", "question"} <= set(read_table(config.input).schema.names):
        return None
    kind = config.kind or guess_kind(files[0], given)
    settings = ingest.Config(corpus=config.input, output=storage.join(config.output, "input"), kind=kind, **flags)
    return ingest.run(settings, beam_arguments, by_identity=True)


def guess_kind(path: str, given: dict[str, str | None]) -> Kind:
    """The fullest kind of table that the file has columns for."""
    for kind in ("triples", "responses"):
        try:
            choose_columns(path, kind, given)
            return kind
        except UsageError:
            continue
    return "questions"


def check_columns(path: str, schema: pa.Schema, config: Settings, compared: Sequence[str]) -> None:
    """UsageError where a column that is needed is missing or of another type, or one has a name that curating gives."""
    texts = [name for name in TEXT_COLUMNS if name in schema.names]
    check_texts(path, schema, dict.fromkeys(["id", "question", *compared, *config.validity.columns, *texts]))
    numbers = [config.keep] if config.keep not in (FIRST, LONGEST) else []
    for name in (*numbers, *config.quotas):
        if name not in schema.names:
            raise UsageError(f"{path}: has no column {name!r}; it has {', '.join(schema.names)}")
    for name in numbers:
        if not (pa.types.is_integer(kind := schema.field(name).type) or pa.types.is_floating(kind)):
            raise UsageError(f"{path}: keep: column {name!r} holds no numbers but {kind}")
    for name in config.quotas:
        try:
            pa.array([], schema.field(name).type).cast(pa.string())
        except pa.ArrowException as error:
            raise UsageError(
                f"{path}: quotas: column {name!r} holds no plain values but {schema.field(name).type}"
            ) from error
    check_free(path, schema, (*SPLIT_COLUMNS, *DROP_COLUMNS, "error"), "curate")


def compared_columns(config: Config, table: Table) -> tuple[str, ...]:
    return config.duplicate_columns or tuple(name for name in TEXT_COLUMNS if name in table.schema.names)


def splits_before(config: Config) -> SplitBefore | None:
    """The splits that must not change; UsageError where the table named has none, or would now be split otherwise."""
    if config.previous is None:
        return None
    before = SplitBefore(read_table(config.previous))
    before.check(shares_of(config))
    return before


def shares_of(config: Config) -> Shares:
    return Shares(config.shares, config.inspector_shares, config.seed)


def stage_for(config: Config, table: Table, held_out: HeldOut, before: SplitBefore | None) -> Stage:
    settings = {item.name: getattr(config, item.name) for item in fields(Settings)}
    for name in ("heldout", "heldout_column", "minimum_yield"):
        del settings[name]
    identity = settings | {
        "input": table.digest,
        "previous": before.table.digest if before else None,
        "similarity": asdict(config.similarity),
        "validity": asdict(config.validity),
        "heldout": held_out.digest,
        "embedder": model_digest(config.embedder) if config.embedder else None,
        "seed": config.seed,
    }
    return Stage.under(config.output, "curate", identity)


def is_triples(table: Table) -> bool:
    return set(TEXT_COLUMNS) <= set(table.schema.names)


def main_name(table: Table) -> str:
    names = table.schema.names
    return "triples" if is_triples(table) else "responses" if "response" in names else "questions"


def build(
    config: Config,
    table: Table,
    held_out: HeldOut,
    before: SplitBefore | None,
    stage: Stage,
    root: beam.Pipeline,
    skip: frozenset[int],
) -> None:
    compared = compared_columns(config, table)
    preference = Preference(config.keep, compared)
    rules = rules_for(config.validity)
    alike = None if config.max_pair_similarity is None else AlikePairs(config.embedder, config.max_pair_similarity)
    shares = shares_of(config)
    splits = partial(assign_splits, shares=shares, before=before, alike=alike)
    text = {name: pa.string() for name in (*SPLIT_COLUMNS, *DROP_COLUMNS)}
    schemas = {
        main_name(table): pa.schema([*table.schema, *((name, text[name]) for name in SPLIT_COLUMNS)]),
        "drops": pa.schema([*table.schema, *((name, text[name]) for name in DROP_COLUMNS)]),
    }

    judged = (
        root
        | "Read" >> ReadTable(table, chunk_rows=HASHED_ROWS)
        | "Judge" >> MapBatches(partial(drop_invalid, rules=rules), partial(drop_leaked, held_out=held_out))
    )
    invalid = judged | "Invalid" >> beam.FlatMap(decisions_of).with_output_types(Keyed)
    repeats = (judged, invalid) | "Duplicates" >> DropDuplicates(table, compared, config.similarity, preference)
    decisions: tuple[beam.PCollection[Keyed], ...] = (invalid, repeats)
    named = list(dict.fromkeys(["id", "question", *preference.reads]))

    def then(step: str, columns: list[str] | None, decide: beam.PTransform) -> None:
        """Decide about the rows that all decisions so far have left in, of which `columns` are read."""
        nonlocal decisions
        left = decisions | f"{step}: so far" >> beam.Flatten() | f"{step}: open" >> OpenShards(table, step, columns)
        decisions = (*decisions, left | step >> decide)

    if config.max_rouge_l is not None:
        then("novelty", named, DropNotNovel(config.max_rouge_l, preference))
    if config.max_cosine is not None:
        then("meaning", named, DropSameMeaning(table, Semantic(config.embedder, config.max_cosine), preference))
    for column, most in config.quotas.items():
        then(f"quota of {column}", None, DropOverQuota(column, most, config.seed, buckets_for(table)))
    if compared != ("question",) or before:  # else what is left has no near-duplicates any more
        decided = decisions | "Decided" >> beam.Flatten()
        clusters = (judged, decided) | "Clusters" >> ClusterQuestions(table, config.similarity, shares, before)
        decisions = (*decisions, clusters)
    (
        decisions
        | "Decisions" >> beam.Flatten()
        | "OpenAll" >> OpenShards(table, "curate", skip=skip)
        | "Split" >> MapBatches(readable_text, partial(quote_leaks, held_out=held_out), splits)
        | "Write" >> WriteTables(stage.directory, schemas, SplitMarks(main_name(table)), table.targets, stage.about)
    )


def write_training_shards(config: Config, stage: Stage, trainer: Trainer, beam_arguments: Sequence[str]) -> None:
    """A trainer's shards, beside the curated triples; those that are there already stay."""
    curated = stage.table().head(None)
    shards = Stage(storage.join(stage.directory, trainer.name), trainer.name, {"curated": stage.digest})
    if not shards.is_done():
        triples_per_shard = max(config.rows_per_shard // trainer.rows_per_triple, 1)
        plan = plan_shards(count_rows(curated, trainer.column), triples_per_shard)
        write = WriteTrainingShards(curated, trainer, plan, shards.directory, shards.about)
        write.skip = shards.done_shards(write.targets)
        run_pipeline(lambda root: root | write, beam_arguments, models=False)


def run(config: Config, beam_arguments: Sequence[str] = ()) -> Stage:
    """Write the curated table, what was dropped, and training shards where the table holds triples."""
    return run_with_import(replace(config, explain=None), beam_arguments)[-1]


def run_with_import(config: Config, beam_arguments: Sequence[str] = ()) -> list[Stage]:
    """As `run`; before the stage stands the import, where the input had to be imported."""
    storage.check_writable(config.output)
    if config.input in config.heldout:
        raise UsageError(f"heldout: {config.input} is the input itself, of which nothing would be left")
    beam_arguments = on_all_processors(beam_arguments)
    held_out = index_held_out(
        read_held_out(config.heldout, config.heldout_column), config.similarity, config.overlap_words
    )
    before = splits_before(config)
    imported = import_input(config, beam_arguments)
    table = read_table(imported.directory if imported else config.input).head(None)
    check_columns(config.input, table.schema, config, compared_columns(config, table))
    stage = stage_for(config, table, held_out, before)
    if config.explain is not None:
        explain_row(config.explain, table, rules_for(config.validity), held_out, stage)
        return []
    with runs.Record(config.output, seed=config.seed).watched(stage):
        complete(
            stage,
            table,
            partial(build, config, table, held_out, before, stage),
            beam_arguments,
            rows=table.rows,
            models=bool(config.embedder),
        )
    check_yield(stage, config.minimum_yield)
    for trainer in TRAINERS if is_triples(table) else ():
        write_training_shards(config, stage, trainer, beam_arguments)
    if not storage.exists(card := storage.join(stage.directory, "README.md")):
        with storage.open_output(card) as file:
            file.write(data_card(stage).encode())
    return [imported, stage] if imported else [stage]


def main(argv: Sequence[str] | None = None) -> int:
    def command(config: Config, beam_arguments: Sequence[str]) -> int:
        return entrypoint.report_stages(*run_with_import(config, beam_arguments))

    return entrypoint.command_main(argv, Config, command, program="alignbeam curate", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
