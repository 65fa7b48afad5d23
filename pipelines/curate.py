"""Curate a table for training: validity, leakage, duplicates, quotas, one split.

    python -m pipelines.curate runs/mine/triples/1a2b3c -o runs/mine --config curate.yaml

Rows that break a rule or match a held-out question go first: no good row is then dropped as the duplicate of one of
them. The table `drops` has every dropped row with its reason, and README.md of the step's directory is a data card.
`alignbeam curate` also takes files that are no tables yet, and writes training shards (pipelines.commands.curate).
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines.report.data_card import data_card
from pipelines.runtime import entrypoint
from pipelines.runtime.beam import on_all_processors
from pipelines.runtime.estimates import Outlook, Prospect, no_cost
from pipelines.runtime.stage import complete
from pipelines.runtime.step import Outside, StageKind, Step
from schemas.errors import UsageError
from schemas.fields import Seed, setting, takes, uses
from schemas.tables import DROP_COLUMNS, SPLIT_COLUMNS, SPLITS, name_by_columns, with_texts
from transforms.curation import steps
from transforms.curation.decisions import OpenShards
from transforms.curation.duplicates import DropDuplicates
from transforms.curation.leakage import HeldOut, drop_leaked, index_held_out, questions_of, quote_leaks, read_held_out
from transforms.curation.novelty import DropNotNovel
from transforms.curation.preference import FIRST, LONGEST, Preference, buckets_for
from transforms.curation.quotas import DropOverQuota
from transforms.curation.semantic import DropSameMeaning, Semantic
from transforms.curation.split import AlikePairs, ClusterQuestions, Shares, SplitBefore, assign_splits
from transforms.curation.validity import TEXT_COLUMNS, Validity, drop_invalid, readable_text, rules_for
from transforms.tables import storage
from transforms.tables.chunks import HASHED_ROWS, MapBatches
from transforms.tables.columns import check_free, check_texts
from transforms.tables.identity import content_id
from transforms.tables.read import ReadTable
from transforms.tables.table import Table
from transforms.texts.near_duplicates import Similarity


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What decides which rows stay. The paper's own: 70/15/15, the inspector's 80/10/10 inside train (app. C)."""

    validity: Validity = field(default_factory=Validity)
    duplicate_columns: tuple[str, ...] = setting("compare rows by these (default: all of question and answers)", ())
    similarity: Similarity = field(default_factory=lambda: Similarity(words=3, jaccard=0.8))
    keep: str = setting("which of alike rows stays: first (by id), longest, or a column whose highest number", FIRST)
    max_rouge_l: float | None = setting("drop questions with a higher ROUGE-L to a kept one (Self-Instruct: 0.7)", None)
    max_cosine: float | None = setting("drop questions with a higher cosine to a kept one, by embedder", None)
    heldout_column: str | None = setting("column of the held-out questions in files", None, decides=False)
    overlap_words: int = setting("words in a row that a question may not share with a held-out one", 13)
    quotas: dict[str, int] = field(default_factory=dict)  # by column, the most rows for each of its values
    shares: tuple[float, float, float] = (0.70, 0.15, 0.15)
    inspector_shares: tuple[float, float, float] = (0.80, 0.10, 0.10)
    max_pair_similarity: float | None = setting("leave pairs as alike as this (cosine) to the aligner alone", None)
    embedder: str = uses("encoder", "folder of the encoder of max_cosine and max_pair_similarity", "")
    minimum_yield: float = setting("stop if a smaller share of the rows survives", 0.1, decides=False)
    seed: Seed = setting("integer seed of the splits and of the draw for quotas", 0)

    def __post_init__(self) -> None:
        if self.overlap_words < 1:
            raise ValueError(f"overlap_words: must be at least 1, not {self.overlap_words}")
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
class Config(Rules):
    table: str = takes("table of triples, responses or questions", "id", "question", positional=True)
    heldout: tuple[str, ...] = takes("table of questions to keep out; may be given again", "id", "question", default=())
    heldout_files: tuple[str, ...] = setting(
        "questions to keep out: a file, folder or table, read as it is; may be given again",
        (),
        decides=False,
        path=True,
    )
    previous: str | None = takes(
        "curated table whose questions keep their splits; newcomers join them",
        "question",
        *SPLIT_COLUMNS,
        default=None,
    )


@dataclass(frozen=True)
class References:
    """What the rows are held against: held-out questions, and the splits of an earlier table."""

    held_out: HeldOut
    before: SplitBefore | None


def references_of(config: Config, step: Step) -> References:
    """Read the held-out questions and the earlier splits.

    Raises UsageError where `previous` has no splits, or would be split otherwise now.
    """
    questions = read_held_out(config.heldout_files, config.heldout_column)
    for path in step.under("heldout"):
        questions |= questions_of(step.table(path))
    held_out = index_held_out(questions, config.similarity, config.overlap_words)
    if "previous" not in step.tables:
        return References(held_out, None)
    before = SplitBefore(step.table("previous"))
    before.check(shares_of(config))
    return References(held_out, before)


def shares_of(config: Rules) -> Shares:
    return Shares(config.shares, config.inspector_shares, config.seed)


def compared_columns(config: Rules, schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns by which rows are duplicates of each other."""
    return config.duplicate_columns or tuple(name for name in TEXT_COLUMNS if name in schema.names)


def check_columns(path: str, schema: pa.Schema, config: Rules) -> None:
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


def schemas_of(schema: pa.Schema) -> dict[str, pa.Schema]:
    """Return the schemas of the tables written: the rows that stay, and those dropped."""
    return {name_by_columns(schema): with_texts(schema, SPLIT_COLUMNS), "drops": with_texts(schema, DROP_COLUMNS)}


def steps_of(config: Config, table: Table, before: SplitBefore | None) -> Iterator[steps.Step]:
    """Return the steps that compare rows with each other, in the order of docs/curation.md."""
    compared, shares = compared_columns(config, table.schema), shares_of(config)
    preference = Preference(config.keep, compared)
    named = list(dict.fromkeys(["id", "question", *preference.reads]))
    yield steps.Step("duplicates", [], DropDuplicates(table, compared, config.similarity, preference))
    if config.max_rouge_l is not None:
        yield steps.Step("novelty", named, DropNotNovel(config.max_rouge_l, preference))
    if config.max_cosine is not None:
        semantic = Semantic(config.embedder, config.max_cosine)
        yield steps.Step("meaning", named, DropSameMeaning(table, semantic, preference))
    for column, most in config.quotas.items():
        yield steps.Step(f"quota of {column}", None, DropOverQuota(column, most, config.seed, buckets_for(table)))
    if compared != ("question",) or before:  # else what is left has no near-duplicates any more
        yield steps.Step("clusters", [], ClusterQuestions(table, config.similarity, shares, before))


def build(
    config: Config, step: Step, table: Table, references: References, root: beam.Pipeline, skip: frozenset[int]
) -> None:
    held_out, before = references.held_out, references.before
    alike = None if config.max_pair_similarity is None else AlikePairs(config.embedder, config.max_pair_similarity)
    judges = partial(drop_invalid, rules=rules_for(config.validity)), partial(drop_leaked, held_out=held_out)
    splits = partial(assign_splits, shares=shares_of(config), before=before, alike=alike)
    (
        root
        | "Read" >> ReadTable(table, chunk_rows=HASHED_ROWS)
        | "Judge" >> MapBatches(*judges)
        | "Decide" >> steps.DecideInOrder(table, list(steps_of(config, table, before)))
        | "Open" >> OpenShards(table, "curate", skip=skip)
        | "Split" >> MapBatches(readable_text, partial(quote_leaks, held_out=held_out), splits)
        | "Write" >> step.write(schemas_of(table.schema), table)
    )


def do(config: Config, step: Step) -> None:
    """Write the curated table, what was dropped, and the data card."""
    table, stage = step.table("table").head(None), step.stage
    check_columns(table.path, table.schema, config)
    complete(
        stage,
        table,
        partial(build, config, step, table, references_of(config, step)),
        on_all_processors(step.beam_arguments),
        rows=table.rows,
        models=bool(config.embedder),
    )
    if not storage.exists(card := storage.join(stage.directory, "README.md")):
        with storage.open_output(card) as file:
            file.write(data_card(stage).encode())


def gives(config: Config, inputs: Mapping[str, pa.Schema]) -> dict[str, pa.Schema]:
    """Return the schemas of the tables written.

    Raises UsageError where columns that settings name are missing or of another type, or columns are in the way.
    """
    if "table" not in inputs:
        return {}
    check_columns("table", inputs["table"], config)
    return schemas_of(inputs["table"])


def outside(config: Config) -> Outside:
    questions = read_held_out(config.heldout_files, config.heldout_column)
    texts = (part for name in sorted(questions) for part in (name, questions[name]))
    return Outside({"heldout_files": content_id(*texts)} if questions else {})


def check(config: Config) -> None:
    if config.table in (*config.heldout, *config.heldout_files):
        raise UsageError(f"heldout: {config.table} is the input itself, of which nothing would be left")
    read_held_out(config.heldout_files, config.heldout_column)


def estimate(config: Config, prospect: Prospect) -> Outlook:
    shares = dict(zip(SPLITS, config.shares, strict=True))
    return replace(no_cost(config, prospect), shares={"split": shares})


KIND = StageKind(
    name="curate",
    about="a table for training: validity, leakage, duplicates, quotas, one split",
    config=Config,
    do=do,
    gives=gives,
    outside=outside,
    check=check,
    estimate=estimate,
    runs_models=lambda config: bool(config.embedder),
)

if __name__ == "__main__":
    sys.exit(entrypoint.main(KIND, __doc__))
