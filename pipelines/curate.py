"""Curate a table for training: validity, leakage, duplicates, quotas, one split, training shards.

    python -m pipelines.curate runs/mine/triples/1a2b3c -o runs/mine --config curate.yaml

Rows that break a rule or match a held-out question go first: no good row is then dropped as the duplicate of one of
them. The table `drops` has every dropped row with its reason, and README.md of the stage's directory is a data card.
Triples also give the shards that the trainers read, in `aligner/` and `inspector/`. `alignbeam curate` does the same
with files that are no tables yet (pipelines.commands.curate).
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines.report.data_card import data_card
from pipelines.runtime import entrypoint, runs
from pipelines.runtime.beam import on_all_processors, run_pipeline
from pipelines.runtime.stage import Stage, check_yield, complete
from schemas.command_line import setting
from schemas.errors import UsageError
from schemas.tables import DROP_COLUMNS, SPLIT_COLUMNS, with_texts
from transforms.curation.decisions import OpenShards
from transforms.curation.duplicates import DropDuplicates
from transforms.curation.leakage import HeldOut, drop_leaked, index_held_out, quote_leaks, read_held_out
from transforms.curation.novelty import DropNotNovel
from transforms.curation.preference import FIRST, LONGEST, Preference, buckets_for
from transforms.curation.quotas import DropOverQuota
from transforms.curation.semantic import DropSameMeaning, Semantic
from transforms.curation.split import AlikePairs, ClusterQuestions, Shares, SplitBefore, assign_splits
from transforms.curation.steps import DecideInOrder, Step
from transforms.curation.validity import TEXT_COLUMNS, Validity, drop_invalid, readable_text, rules_for
from transforms.engines.encoder import model_digest
from transforms.tables import storage
from transforms.tables.chunks import HASHED_ROWS, MapBatches
from transforms.tables.columns import check_free, check_texts
from transforms.tables.read import ReadTable
from transforms.tables.table import Table, read_table
from transforms.tables.write import SplitMarks, WriteTables
from transforms.texts.near_duplicates import Similarity
from transforms.training_data.rows import TRAINER_ROWS, TrainerRows
from transforms.training_data.shards import WriteTrainingShards, count_rows, plan_shards


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
            shares = getattr(self, name)
            if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                raise ValueError(f"{name}: must be three shares that make 1, not {shares}")
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
    input: str = setting("table of triples, responses or questions", positional=True)
    output: str = setting("run directory", short="-o")
    seed: int = setting("integer seed of the splits and of the draw for quotas", 0)


@dataclass(frozen=True)
class References:
    """What the rows are held against: held-out questions, and the splits of an earlier table."""

    held_out: HeldOut
    before: SplitBefore | None


def read_references(config: Config) -> References:
    """Read the held-out questions and the earlier splits.

    UsageError where the input is held out itself, or `previous` has no splits or would be split otherwise now.
    """
    if config.input in config.heldout:
        raise UsageError(f"heldout: {config.input} is the input itself, of which nothing would be left")
    questions = read_held_out(config.heldout, config.heldout_column)
    held_out = index_held_out(questions, config.similarity, config.overlap_words)
    if config.previous is None:
        return References(held_out, None)
    before = SplitBefore(read_table(config.previous))
    before.check(shares_of(config))
    return References(held_out, before)


def shares_of(config: Config) -> Shares:
    return Shares(config.shares, config.inspector_shares, config.seed)


def compared_columns(config: Settings, schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns by which rows are duplicates of each other."""
    return config.duplicate_columns or tuple(name for name in TEXT_COLUMNS if name in schema.names)


def open_table(config: Config) -> Table:
    """Read the table to curate; UsageError where its columns are of no use."""
    table = read_table(config.input).head(None)
    check_columns(config.input, table.schema, config)
    return table


def check_columns(path: str, schema: pa.Schema, config: Settings) -> None:
    """Raise UsageError where a column is missing, of another type, or in the way of curating."""
    texts = [name for name in TEXT_COLUMNS if name in schema.names]
    compared = compared_columns(config, schema)
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


def stage_for(config: Config, table: Table, references: References) -> Stage:
    settings = {item.name: getattr(config, item.name) for item in fields(Settings)}
    for name in ("heldout", "heldout_column", "minimum_yield"):
        del settings[name]
    identity = settings | {
        "input": table.digest,
        "previous": references.before.table.digest if references.before else None,
        "similarity": asdict(config.similarity),
        "validity": asdict(config.validity),
        "heldout": references.held_out.digest,
        "embedder": model_digest(config.embedder) if config.embedder else None,
        "seed": config.seed,
    }
    return Stage.under(config.output, "curate", identity)


def is_triples(table: Table) -> bool:
    return set(TEXT_COLUMNS) <= set(table.schema.names)


def kept_name(table: Table) -> str:
    """Return the name of the table of the rows that stay."""
    return "triples" if is_triples(table) else "responses" if "response" in table.schema.names else "questions"


def schemas_of(table: Table) -> dict[str, pa.Schema]:
    """Return the schemas of the tables written: the rows that stay, and those dropped."""
    return {
        kept_name(table): with_texts(table.schema, SPLIT_COLUMNS),
        "drops": with_texts(table.schema, DROP_COLUMNS),
    }


def steps_of(config: Config, table: Table, before: SplitBefore | None) -> Iterator[Step]:
    """Return the steps that compare rows with each other, in the order of docs/curation.md."""
    compared, shares = compared_columns(config, table.schema), shares_of(config)
    preference = Preference(config.keep, compared)
    named = list(dict.fromkeys(["id", "question", *preference.reads]))
    yield Step("duplicates", [], DropDuplicates(table, compared, config.similarity, preference))
    if config.max_rouge_l is not None:
        yield Step("novelty", named, DropNotNovel(config.max_rouge_l, preference))
    if config.max_cosine is not None:
        semantic = Semantic(config.embedder, config.max_cosine)
        yield Step("meaning", named, DropSameMeaning(table, semantic, preference))
    for column, most in config.quotas.items():
        yield Step(f"quota of {column}", None, DropOverQuota(column, most, config.seed, buckets_for(table)))
    if compared != ("question",) or before:  # else what is left has no near-duplicates any more
        yield Step("clusters", [], ClusterQuestions(table, config.similarity, shares, before))


def build(
    config: Config, table: Table, references: References, stage: Stage, root: beam.Pipeline, skip: frozenset[int]
) -> None:
    held_out, before = references.held_out, references.before
    alike = None if config.max_pair_similarity is None else AlikePairs(config.embedder, config.max_pair_similarity)
    judges = partial(drop_invalid, rules=rules_for(config.validity)), partial(drop_leaked, held_out=held_out)
    splits = partial(assign_splits, shares=shares_of(config), before=before, alike=alike)
    marks = SplitMarks(kept_name(table))
    (
        root
        | "Read" >> ReadTable(table, chunk_rows=HASHED_ROWS)
        | "Judge" >> MapBatches(*judges)
        | "Decide" >> DecideInOrder(table, list(steps_of(config, table, before)))
        | "Open" >> OpenShards(table, "curate", skip=skip)
        | "Split" >> MapBatches(readable_text, partial(quote_leaks, held_out=held_out), splits)
        | "Write" >> WriteTables(stage.directory, schemas_of(table), marks, table.targets, stage.about)
    )


def write_training_shards(
    config: Config, stage: Stage, trainer_rows: TrainerRows, beam_arguments: Sequence[str]
) -> None:
    """Write a trainer's shards beside the curated triples; those that are there already stay."""
    curated = stage.table().head(None)
    shards = Stage(storage.join(stage.directory, trainer_rows.name), trainer_rows.name, {"curated": stage.digest})
    if not shards.is_done():
        triples_per_shard = max(config.rows_per_shard // trainer_rows.rows_per_triple, 1)
        plan = plan_shards(count_rows(curated, trainer_rows.column), triples_per_shard)
        write = WriteTrainingShards(curated, trainer_rows, plan, shards.directory, shards.about)
        write.skip = shards.done_shards(write.targets)
        run_pipeline(lambda root: root | write, beam_arguments, models=False)


def run(config: Config, beam_arguments: Sequence[str] = (), references: References | None = None) -> Stage:
    """Write the curated table, what was dropped, and training shards where the table holds triples.

    references: those that `read_references` returned, where they have been read already.
    """
    storage.check_writable(config.output)
    references = references or read_references(config)
    table = open_table(config)
    stage = stage_for(config, table, references)
    beam_arguments = on_all_processors(beam_arguments)
    with runs.Record(config.output, seed=config.seed).watched(stage):
        complete(
            stage,
            table,
            partial(build, config, table, references, stage),
            beam_arguments,
            rows=table.rows,
            models=bool(config.embedder),
        )
    check_yield(stage, config.minimum_yield)
    for trainer_rows in TRAINER_ROWS if is_triples(table) else ():
        write_training_shards(config, stage, trainer_rows, beam_arguments)
    if not storage.exists(card := storage.join(stage.directory, "README.md")):
        with storage.open_output(card) as file:
            file.write(data_card(stage).encode())
    return stage


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="python -m pipelines.curate", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
