"""Tables to another table: columns under other names, some of the rows, several tables as one; no model is asked.

    alignbeam derive --tables runs/mine/curate/1a2b3c --set 'where={split: [test]}' -o runs/mine
    alignbeam derive --tables runs/mine/curate/1a2b3c --sample 0.2 -o runs/mine \\
        --set 'columns={question: question, response: response, correction: response}'

Paper 004's warm-up is the second: triples whose correction is the response, of a fifth of the questions. A row keeps
its id, split and lineage. A smaller `sample` lies in every larger one of the same seed.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.runtime import entrypoint
from pipelines.runtime.estimates import Outlook, Prospect, Sample, Shares, part_at_most
from pipelines.runtime.stage import complete
from pipelines.runtime.step import StageKind, Step
from schemas.command_line import check_limit
from schemas.errors import UsageError
from schemas.fields import Seed, edges, setting, takes
from schemas.tables import SPLIT_COLUMNS, name_by_columns
from transforms.curation.selection import Smallest, check_where, find_smallest, select_rows
from transforms.tables.chunks import HASHED_ROWS, Chunk, MapBatches
from transforms.tables.read import ReadTable
from transforms.tables.table import Table

LINEAGE = ("question_type", "topic", "criterion", "question_id", "source", "identity")
LABEL = re.compile(r"\w[\w .@+-]{0,59}")  # of Unicode letters no more than 255 bytes, as the name of a file
SOURCE = "source"  # from which of several tables a row is

Names = Mapping[str, str]  # of a table's columns: the name they get, the name they have


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is selected, in this order: by `where`, then a share of that, of which at most so many rows.

    columns: all texts that are kept, by the names they get; without it all columns stay. where: by column, the values
        of which a row has one.
    """

    tables: tuple[str, ...] | dict[str, str] | str = takes(
        "table to select from; may be given again, in a file by labels too", "id", labelled=True
    )
    columns: dict[str, str] = field(default_factory=dict)
    where: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    sample: float | None = setting("only this share of the rows; every split keeps one", None)
    limit: int | None = setting("only so many rows; every split keeps one", None, rows=True)
    seed: Seed = setting("integer seed of the hashes by which rows are chosen", 0)

    def __post_init__(self) -> None:
        check_limit(self.limit)
        if self.sample is not None and not 0 < self.sample <= 1:
            raise ValueError(f"sample: {self.sample} is not a share above 0 and up to 1")
        if not self.tables:
            raise ValueError("tables: name at least one")
        for label in self.tables if isinstance(self.tables, dict) else ():
            if not LABEL.fullmatch(label):
                raise ValueError(f"tables.{label}: files are called so too; letters, digits and . _ - @ +, at most 60")
        for name in self.columns:
            if name in ("id", *SPLIT_COLUMNS, *LINEAGE):
                raise ValueError(f"columns.{name}: stays as it is; give the text another name")
        for column, values in self.where.items():
            if not values:
                raise ValueError(f"where.{column}: no row has none of no values; name some")


@dataclass(frozen=True)
class Derived:
    """The table that is made: its columns, and those of each table by the path of its input."""

    schema: pa.Schema
    names: Mapping[str, Names]

    @property
    def is_merged(self) -> bool:
        return len(self.names) > 1


def derived(config: Config, schemas: Mapping[str, pa.Schema]) -> Derived:
    """Return the table to make of tables of these schemas.

    Raises UsageError where a column is missing, or several tables would have different ones.
    """
    for path, schema in schemas.items():
        check_where(path, schema, config.where)
        if missing := [old for old in config.columns.values() if old not in schema.names]:
            raise UsageError(f"columns: {path} has no column {', '.join(missing)}; it has {', '.join(schema.names)}")
    names = {path: dict(_names(config, schema, schemas)) for path, schema in schemas.items()}
    (first, of_first), *others = names.items()
    types = {new: schemas[first].field(old).type for new, old in of_first.items()}
    for path, of_table in others:
        own = {new: schemas[path].field(old).type for new, old in of_table.items()}
        if apart := sorted(name for name in own.keys() | types.keys() if own.get(name) != types.get(name)):
            raise UsageError(
                f"{path}: its columns differ from those of {first}: {', '.join(apart)}; "
                "say which texts to keep, under which names: columns: {NEW: OLD}"
            )
    return Derived(pa.schema([*types.items(), *([(SOURCE, pa.string())] if others else [])]), names)


def _names(config: Config, schema: pa.Schema, schemas: Mapping[str, pa.Schema]) -> Iterator[tuple[str, str]]:
    """Yield the columns that a table keeps, and the names they get; merged, it has neither splits nor its `source`."""
    gone = (SOURCE, *SPLIT_COLUMNS) if len(schemas) > 1 else ()
    if not config.columns:
        yield from ((name, name) for name in schema.names if name not in gone)
        return
    yield "id", "id"
    yield from config.columns.items()
    for name in (*LINEAGE, *SPLIT_COLUMNS):
        if name not in gone and all(name in of_table.names for of_table in schemas.values()):
            yield name, name


def derive_rows(
    batch: pa.RecordBatch, config: Config, names: Names, schema: pa.Schema, source: str, smallest: Smallest | None
) -> pa.RecordBatch:
    """Return the rows that are selected, with the columns of `schema`."""
    batch = select_rows(batch, config.where, config.seed, smallest)
    columns = {new: batch.column(old) for new, old in names.items()}
    is_same_text = "correction" in config.columns and config.columns["correction"] == config.columns.get("response")
    if is_same_text and "identity" in columns:
        columns["identity"] = pa.array(np.ones(batch.num_rows, np.bool_))
    if SOURCE in schema.names and SOURCE not in names:
        columns[SOURCE] = pa.repeat(source, batch.num_rows)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


@dataclass(frozen=True)
class AllRows:
    """Put every row of a chunk into the table `name`."""

    name: str

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        return {self.name: chunk.batch}


def parts_of(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Return the tables with shards that no two have in common, neither by index nor by name."""
    if len(tables) == 1:
        return dict(tables)
    parts, index = {}, 0
    for path, table in tables.items():
        shards = []
        for shard in table.shards:
            shards.append(replace(shard, index=index, name=f"{label_of(path)}/{table.targets[shard.index].name}"))
            index += 1
        parts[path] = replace(table, shards=tuple(shards))
    return parts


def label_of(path: str) -> str:
    """Return the label of an input, or its position: that of `tables.hh` is `hh`."""
    return path.partition(".")[2]


def smallest_of(config: Config, tables: Mapping[str, Table]) -> Smallest | None:
    """Return the hashes of the rows to take, None where all are."""
    if config.sample is None and config.limit is None:
        return None

    def batches() -> Iterator[pa.RecordBatch]:
        for table in tables.values():
            has_splits = len(tables) == 1 and "split" in table.schema.names
            columns = dict.fromkeys(["id", *config.where, *(["split"] if has_splits else [])])
            yield from table.batches(list(columns), HASHED_ROWS)

    return find_smallest(batches(), config.where, config.seed, config.sample, config.limit)


def do(config: Config, step: Step) -> None:
    tables = {path: step.table(path).head(None) for path in step.under("tables")}
    table = derived(config, {path: table.schema for path, table in tables.items()})
    parts = parts_of(tables)
    whole = Table("", tuple(shard for part in parts.values() for shard in part.shards), table.schema)
    smallest = None if step.stage.is_done() else smallest_of(config, tables)

    def build(root: beam.Pipeline, skip: frozenset[int]) -> None:
        chunks = []
        for path, part in parts.items():
            names = table.names[path]
            columns = list(dict.fromkeys(["id", *names.values(), *config.where]))
            function = partial(
                derive_rows,
                config=config,
                names=names,
                schema=table.schema,
                source=label_of(path),
                smallest=smallest,
            )
            chunks.append(
                root
                | f"Read {path}" >> ReadTable(part, columns, skip, HASHED_ROWS)
                | f"Derive {path}" >> MapBatches(function)
            )
        name = name_by_columns(table.schema)
        chunks | "Together" >> beam.Flatten() | "Write" >> step.write({name: table.schema}, whole, AllRows(name))

    complete(step.stage, whole, build, step.beam_arguments, models=False)


def gives(config: Config, inputs: Mapping[str, pa.Schema]) -> dict[str, pa.Schema]:
    """Return the schema of the table, nothing where one of an input is not known.

    Raises UsageError where a column is missing, or several tables would have different ones.
    """
    if not inputs or len(inputs) < len(list(edges(config))):
        return {}
    schema = derived(config, inputs).schema
    return {name_by_columns(schema): schema}


def estimate(config: Config, prospect: Prospect) -> Outlook:
    """Return how many rows there would be, as far as it is known which part of the tables' rows has the values."""
    most, likely = 0, 0.0
    for path, rows in prospect.rows.items():
        if rows is None:
            return Outlook(config.limit)
        share = part_with(config.where, prospect.shares.get(path, {}))
        most += part_at_most(rows, share)
        likely += share * (prospect.likely.get(path) or rows)
    if config.sample is not None:
        most, likely = int(np.ceil(config.sample * most - 1e-9)), config.sample * likely
    if config.limit is not None:
        most, likely = min(most, config.limit), min(likely, config.limit)
    return Outlook(most, likely=likely, sample=sample_of(config, prospect))


def part_with(where: Mapping[str, Sequence[Any]], shares: Shares) -> float:
    """Return the part of a table's rows that have the values, 1 where that is not known."""
    parts = [sum(shares[column].get(value, 0.0) for value in where[column]) for column in where if column in shares]
    return min(parts, default=1.0)


def sample_of(config: Config, prospect: Prospect) -> Sample | None:
    """Return rows of the first table with the columns that stay, as far as they are texts."""
    sample = next(iter(prospect.samples.values()), None)
    if sample is None or not config.columns:
        return sample
    texts = {new: sample.rows.column(old) for new, old in config.columns.items() if old in sample.rows.column_names}
    return replace(sample, rows=pa.table(texts))


KIND = StageKind(
    name="derive",
    about="tables to another: columns under other names, some of the rows, several tables as one",
    config=Config,
    do=do,
    gives=gives,
    estimate=estimate,
)

if __name__ == "__main__":
    sys.exit(entrypoint.main(KIND, __doc__))
