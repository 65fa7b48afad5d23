"""Import a corpus as people have it: one shard per file, rows in order, columns that are not ours untouched.

Rows that cannot be used are rejects with file, line and reason.

    alignbeam import answers.jsonl.gz -o data/answers
    alignbeam import 'hh/*.jsonl.gz' -o data/hh --kind triples
    alignbeam import answers.csv -o data/answers --question-column prompt -- --runner=FlinkRunner ...
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.runtime import entrypoint
from pipelines.runtime.at_work import at_work
from pipelines.runtime.beam import run_pipeline
from pipelines.runtime.estimates import SAMPLE_ROWS, Outlook, Prospect, Sample
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import Outside, Place, PlannedStep, StageKind, Step, always
from pipelines.runtime.steps import alone, open_step
from schemas.command_line import check_limit
from schemas.console import messages
from schemas.errors import StageError, UsageError
from schemas.fields import setting
from schemas.names import check_name
from schemas.urls import redact_urls, without_query
from transforms.corpora import looks, records
from transforms.corpora.fields import REJECTS, Kind, Look, read_chunks, schema_of
from transforms.tables import storage
from transforms.tables.chunks import Chunk, end_of_shard
from transforms.tables.columns import is_text
from transforms.tables.entries import read_entries
from transforms.tables.identity import content_id
from transforms.tables.shards import Target
from transforms.tables.table import MANIFEST
from transforms.tables.write import WriteTables

COUNTED_ROWS = 100_000  # that a plan reads; of larger corpora only Parquet files say how many rows they have
NAMED_FILES = 10  # of those that cannot be read
CLAIM = "import.json"  # which import the shards in a directory belong to, before a manifest says so


@dataclass(frozen=True, kw_only=True)
class TextFlags:
    """Which columns of a file hold the texts; the stages that import a file first have these flags too."""

    question_column: str | None = setting("column of the question", None)
    response_column: str | None = setting("column of the response", None)


@dataclass(frozen=True, kw_only=True)
class TripleFlags(TextFlags):
    correction_column: str | None = setting("column of the better response", None)


@dataclass(frozen=True, kw_only=True)
class ResponseFlags(TextFlags):
    messages_column: str | None = setting("column of a chat, whose last assistant turn is the response", None)
    batch_input: str | None = setting(
        "requests whose results the corpus is: a batch API's input file, folder or glob", None, decides=False, path=True
    )


@dataclass(frozen=True, kw_only=True)
class Config(ResponseFlags, TripleFlags):
    corpus: str = setting(
        "file, folder or glob: Parquet, JSON lines, JSON, CSV, plain or compressed",
        positional=True,
        decides=False,
        path=True,
    )
    kind: Kind = setting("questions, responses, or triples (also from preference data)", "responses")
    limit: int | None = setting("read only so many rows of each file", None)

    def __post_init__(self) -> None:
        check_limit(self.limit)

    @property
    def columns(self) -> dict[str, str | None]:
        return {
            "question": self.question_column,
            "response": self.response_column,
            "correction": self.correction_column,
            "messages": self.messages_column,
            "batch_input": self.batch_input,
        }


@dataclass(frozen=True, kw_only=True)
class Command(Config):
    output: str = setting("directory for the table", short="-o")


@dataclass(frozen=True)
class Source:
    """A corpus file, and how its rows are read."""

    shard: int
    path: str
    mark: str  # of the file
    kind: Kind
    columns: dict[str, str]
    schema: pa.Schema
    limit: int | None
    batch_input: tuple[tuple[str, str], ...]  # files of requests with their marks
    name: str  # of its shard

    @cached_property
    def target(self) -> Target:
        return Target(self.name, content_id(self.mark, str(self.columns), redact_urls(self.batch_input)))

    def chunks(self) -> Iterator[Chunk]:
        rows = 0
        for chunk in read_chunks(
            self.shard, self.path, self.kind, self.columns, self.schema, self.limit, self.batch_input
        ):
            yield chunk
            rows += chunk.rows
        yield end_of_shard(self.shard, rows)


def check_apart(corpus: str, output: str) -> None:
    """Raise UsageError where the output lies in the corpus's folder."""
    is_folder = storage.is_directory(corpus) and not storage.exists(storage.join(corpus, MANIFEST))
    if is_folder and storage.is_inside(output, corpus):
        raise UsageError(f"{output}: lies in the corpus {corpus}, of which it would be a part; choose another output")


def check_flags(config: Config) -> None:
    """Raise UsageError where two flags name the column of one text."""
    named = [name for name, value in config.columns.items() if value]
    for name, flag in (("messages", "--messages-column"), ("batch_input", "--batch-input")):
        if name in named and config.kind != "responses":
            raise UsageError(f"{flag}: gives responses, not {config.kind}")
        if name in named and len(named) > 1:
            superfluous = ", ".join(column for column in named if column != name)
            raise UsageError(f"{flag}: says where question and response are; leave out the flag for {superfluous}")


def find_requests(path: str) -> tuple[tuple[str, str], ...]:
    """Return the files of a batch's requests with their marks.

    Raises UsageError where one is something else.
    """
    files = records.find_files(path)
    for file in files:
        if missing := {"custom_id", "body"} - set(records.column_names(file)):
            raise UsageError(f"{file}: no requests of a batch API: their lines have no {', '.join(sorted(missing))}")
    return tuple((file, storage.mark(file)) for file in files)


def find_sources(config: Config) -> list[Source]:
    """Return every file with its columns; empty files are left out, unreadable ones become rejects.

    Raises UsageError where a file is missing, lacks a column, or has one of another type than the others, and where not
    one file can be read.
    """
    check_flags(config)
    requests = find_requests(config.batch_input) if config.batch_input else ()
    seen = look_at_corpus(config)
    readable = [look for _, look in seen.values() if isinstance(look, Look)]
    if not readable:
        raise next(look for _, look in seen.values() if isinstance(look, records.NoRecord))
    schema = schema_of(config.kind, readable)
    kept = {path: file for path, file in seen.items() if not isinstance(file[1], records.EmptyFile)}
    names = shard_names(config.corpus, list(kept))
    return [
        Source(shard, path, mark, config.kind, columns_of(look, readable), schema, config.limit, requests, names[path])
        for shard, (path, (mark, look)) in enumerate(kept.items())
    ]


def look_at_corpus(config: Config) -> dict[str, tuple[str, looks.Seen]]:
    return looks.look_at_all(records.find_files(config.corpus), config.kind, config.columns, config.limit)


def columns_of(look: looks.Seen, readable: Sequence[Look]) -> dict[str, str]:
    """Return a file's columns; one that cannot be read is tried with those of the first."""
    return look.columns if isinstance(look, Look) else readable[0].columns


def shard_names(corpus: str, files: Sequence[str]) -> dict[str, str]:
    """Return the name of each file's shard; UsageError where two would have the same."""
    root = corpus
    if not storage.is_directory(root):
        root = storage.fixed_part(root) if storage.is_pattern(root) else storage.folder_of(root)
    names = {
        path: check_name(storage.relative(without_query(path), root), path).removesuffix(".parquet") for path in files
    }
    for name, times in Counter(names.values()).items():
        if times > 1:
            raise UsageError(f"{root}: {name} and {name}.parquet would be one file in the output; rename one of them")
    return names


def tell_unreadable(files: Mapping[str, tuple[str, looks.Seen]]) -> None:
    """Print which files hold no record that can be read, and why."""
    errors = [look for _, look in files.values() if isinstance(look, records.NoRecord)]
    for error in errors[:NAMED_FILES]:
        messages.print(f"left out: {error}", soft_wrap=True)
    if len(errors) > NAMED_FILES:
        messages.print(f"left out: {len(errors) - NAMED_FILES:,} more files without a record that can be read")


@dataclass(frozen=True)
class SplitImported:
    """Part a chunk of transforms.corpora.fields.read_chunks into the table `name` and its rejects."""

    name: str

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        is_good = pc.is_null(chunk.batch.column("error"))
        rows = pa.RecordBatch.from_struct_array(chunk.batch.filter(is_good).column("row"))
        return {self.name: rows, "rejects": chunk.batch.filter(pc.invert(is_good))}


def claim(stage: Stage) -> None:
    """Note whose shards the directory holds; raise UsageError where it has some of another, unfinished import."""
    path = storage.join(stage.directory, CLAIM)
    owner = storage.read_json(path)["digest"] if storage.exists(path) else None
    if owner == stage.digest:
        return
    if read_entries(stage.directory):
        raise UsageError(
            f"{stage.directory}: holds an unfinished import of another input or settings; remove it, or choose another "
            "output"
        )
    storage.write_json(path, stage.about)


def build(sources: list[Source], stage: Stage, root: beam.Pipeline) -> None:
    targets = {source.shard: source.target for source in sources}
    done = stage.done_shards(targets)
    kind = sources[0].kind
    schemas = {kind: sources[0].schema, "rejects": REJECTS}
    (
        root
        | "Files" >> beam.Create([source for source in sources if source.shard not in done])
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(Source.chunks).with_output_types(Chunk)
        | "Write" >> WriteTables(stage.directory, schemas, SplitImported(kind), targets, stage.about)
    )


def do(config: Config, step: Step) -> None:
    """Import the files that are new or changed.

    Raises StageError where not one row of the corpus can be used.
    """
    check_apart(config.corpus, step.place.output)
    stage = step.stage
    with at_work(stage.directory):
        sources, seen = find_sources(config), look_at_corpus(config)
        tell_unreadable(seen)
        looks.note(storage.join(stage.directory, looks.LOOKS), seen, config.kind, config.columns, config.limit)
        if not stage.is_done():
            claim(stage)
            stage.withdraw_if_changed({source.shard: source.target for source in sources})
            run_pipeline(lambda root: build(sources, stage, root), step.beam_arguments, models=False)
    counts = stage.read_manifest()["counts"]
    if not counts["kept"]:
        raise StageError(f"{config.corpus}: not one row could be used: {counts['rejects']}")


def gives(config: Config, inputs: Mapping[str, pa.Schema]) -> dict[str, pa.Schema]:
    """Return the schemas of the table and its rejects; nothing where the corpus cannot be read, as `check` says."""
    try:
        return {config.kind: find_sources(config)[0].schema, "rejects": REJECTS}
    except UsageError:
        return {}


def outside(config: Config) -> Outside:
    sources = find_sources(config)
    return Outside(
        {"schema": sources[0].schema.to_string()},
        {"corpus": config.corpus} | ({"batch_input": config.batch_input} if config.batch_input else {}),
        content_id(*(f"{source.name} {source.target.mark}" for source in sources)),
    )


def check(config: Config) -> None:
    find_sources(config)


def estimate(config: Config, prospect: Prospect) -> Outlook:
    """Return the outlook: the rows of the corpus, where it is there and not too large to be counted."""
    try:
        sources = find_sources(config)
    except UsageError:  # the run's check says what is wrong
        return Outlook(None)
    batches, rows = [], 0
    for batch in (chunk.batch for source in sources for chunk in source.chunks() if chunk.rows):
        batches.append(pa.RecordBatch.from_struct_array(batch.column("row")).filter(pc.is_null(batch.column("error"))))
        rows += batch.num_rows
        if rows > COUNTED_ROWS:
            break
    read = pa.Table.from_batches(batches, sources[0].schema)
    spread = np.linspace(0, max(0, read.num_rows - 1), min(SAMPLE_ROWS, read.num_rows), dtype=np.int64)
    texts = [column.name for column in read.schema if is_text(column.type)]
    sample = Sample(read.select(texts).take(spread), is_real=True)
    if rows <= COUNTED_ROWS:
        return Outlook(rows, likely=read.num_rows, sample=sample)
    if not all(records.format_of(source.path) == "parquet" for source in sources):
        return Outlook(None, sample=sample)
    counts = [records.read_footer(source.path)[1] for source in sources]
    rows = sum(count if config.limit is None else min(count, config.limit) for count in counts)
    return Outlook(rows, likely=rows, sample=sample)


def recall(place: Place) -> None:
    """Read what earlier imports saw in their files."""
    imports = storage.list_in(storage.join(place.output, KIND.name), f"*/{looks.LOOKS}")
    for path in (storage.join(place.output, looks.LOOKS), *imports):
        looks.recall(path)


def refuse_import_flags(path: str, settings: dict[str, str | None]) -> None:
    """Raise UsageError where a setting says how to read a table of a stage.

    Such a table is read as it is.
    """
    if flags := [f"--{name.replace('_', '-')} {value}" for name, value in settings.items() if value]:
        raise UsageError(f"{path}: is a table made by a stage and read by its own columns; leave out {' '.join(flags)}")


KIND = StageKind(
    name="import",
    about="files as people have them to a table of questions, responses or triples",
    config=Config,
    do=do,
    gives=gives,
    outside=outside,
    check=check,
    recall=recall,
    estimate=estimate,
    grows=always,
)


def import_into(config: Config, output: str, beam_arguments: Sequence[str] = ()) -> Stage:
    """Import a corpus into a directory, which is the table then; nothing is done where it is complete."""
    check_apart(config.corpus, output)
    storage.check_writable(output)
    step = open_step(
        alone(PlannedStep(KIND.name, KIND, config, beam_arguments=tuple(beam_arguments))), {}, Place(output)
    )
    step = replace(step, stage=replace(step.stage, directory=output))
    do(config, step)
    return step.stage


def run(command: Command, beam_arguments: Sequence[str] = ()) -> int:
    config = Config(**{item.name: getattr(command, item.name) for item in fields(Config)})
    return entrypoint.report_stages(import_into(config, command.output, beam_arguments))


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.command_main(argv, Command, run, program="alignbeam import", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
