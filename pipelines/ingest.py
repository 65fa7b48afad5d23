"""Import a corpus as people have it: one shard per file, rows in order, columns that are not ours untouched.

Rows that cannot be used are rejects with file, line and reason.

    alignbeam import answers.jsonl.gz -o data/answers
    alignbeam import 'hh/*.jsonl.gz' -o data/hh --kind triples
    python -m pipelines.ingest answers.csv -o data/answers --question-column prompt -- --runner=FlinkRunner ...
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.runtime import entrypoint
from pipelines.runtime.at_work import at_work
from pipelines.runtime.beam import run_pipeline
from pipelines.runtime.stage import Stage, identity_digest
from schemas.command_line import check_limit, setting
from schemas.console import messages
from schemas.errors import StageError, UsageError
from schemas.names import check_name
from schemas.urls import redact_urls, without_query
from transforms.corpora import records
from transforms.corpora.fields import REJECTS, Kind, Look, look_at, read_chunks, schema_of
from transforms.tables import storage
from transforms.tables.chunks import Chunk, end_of_shard
from transforms.tables.entries import read_entries
from transforms.tables.identity import content_id
from transforms.tables.shards import Target
from transforms.tables.table import MANIFEST
from transforms.tables.write import WriteTables

NAMED_FILES = 10  # of those that cannot be read
LOOKS = "looks.json"  # the columns and types of the corpus's files
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
        "requests whose results the corpus is: a batch API's input file, folder or glob", None
    )


@dataclass(frozen=True, kw_only=True)
class Config(ResponseFlags, TripleFlags):
    corpus: str = setting("file, folder or glob: Parquet, JSON lines, JSON, CSV, plain or compressed", positional=True)
    output: str = setting("directory for the table", short="-o")
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


@dataclass(frozen=True)
class Source:
    """A corpus file, and how its rows are read."""

    shard: int
    path: str
    kind: Kind
    columns: dict[str, str]
    schema: pa.Schema
    limit: int | None
    batch_input: tuple[tuple[str, str], ...]  # files of requests with their marks
    name: str  # of its shard

    @cached_property
    def target(self) -> Target:
        return Target(self.name, content_id(storage.mark(self.path), str(self.columns), redact_urls(self.batch_input)))

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


def find_sources(config: Config, notes: str | None = None) -> list[Source]:
    """Return every file with its columns.

    Empty files are left out, unreadable ones become rejects; both are told.

    notes: a file that keeps the columns of the corpus's files, so that a rerun of a large corpus looks into those alone
        that are new or changed.
    Raises UsageError where a file is missing, lacks a column, or has one of another type than the others, and where not
    one file can be read.
    """
    check_flags(config)
    requests = find_requests(config.batch_input) if config.batch_input else ()
    files = records.find_files(config.corpus)
    looks_or_errors = look_at_all(files, config, notes)
    looks = [look for look in looks_or_errors.values() if isinstance(look, Look)]
    errors = [error for error in looks_or_errors.values() if isinstance(error, records.NoRecord)]
    if not looks:
        raise errors[0]
    for error in errors[:NAMED_FILES]:
        messages.print(f"left out: {error}", soft_wrap=True)
    if len(errors) > NAMED_FILES:
        messages.print(f"left out: {len(errors) - NAMED_FILES:,} more files without a record that can be read")
    schema = schema_of(config.kind, looks)
    kept = {path: look for path, look in looks_or_errors.items() if not isinstance(look, records.EmptyFile)}
    columns = {path: look.columns if isinstance(look, Look) else looks[0].columns for path, look in kept.items()}
    root = config.corpus
    if not storage.is_directory(root):
        root = storage.fixed_part(root) if storage.is_pattern(root) else storage.folder_of(root)
    names = {
        path: check_name(storage.relative(without_query(path), root), path).removesuffix(".parquet") for path in kept
    }
    for name, times in Counter(names.values()).items():
        if times > 1:
            raise UsageError(f"{root}: {name} and {name}.parquet would be one file in the output; rename one of them")
    return [
        Source(shard, path, config.kind, columns[path], schema, config.limit, requests, names[path])
        for shard, path in enumerate(kept)
    ]


def look_at_all(files: Sequence[str], config: Config, notes: str | None) -> dict[str, Look | records.NoRecord]:
    """Return every file's columns, or why nothing of it can be read.

    They come from the notes where they stand there.
    """
    noted = storage.read_json(notes) if notes and storage.exists(notes) else {}

    def look(path: str) -> tuple[str, Look | records.NoRecord]:
        key = content_id(redact_urls(path), storage.mark(path), config.kind, str(config.columns), str(config.limit))
        if key in noted:
            return key, Look.from_json(noted[key])
        try:
            return key, look_at(path, config.kind, config.columns, config.limit)
        except records.NoRecord as error:
            return key, error

    keyed = storage.for_each(look, files)
    to_note = {key: look.to_json() for key, look in keyed if isinstance(look, Look)}
    if notes and to_note.keys() != noted.keys():
        storage.write_json(notes, to_note)
    return {path: look for path, (_, look) in zip(files, keyed, strict=True)}


@dataclass(frozen=True)
class SplitImported:
    """Part a chunk of transforms.corpora.fields.read_chunks into the table `name` and its rejects."""

    name: str

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        is_good = pc.is_null(chunk.batch.column("error"))
        rows = pa.RecordBatch.from_struct_array(chunk.batch.filter(is_good).column("row"))
        return {self.name: rows, "rejects": chunk.batch.filter(pc.invert(is_good))}


def stage_for(config: Config, sources: list[Source], *, by_identity: bool) -> Stage:
    identity = {
        "corpus": storage.relative(config.corpus, config.output),
        "kind": config.kind,
        "columns": config.columns,
        "schema": sources[0].schema.to_string(),
        "limit": config.limit,
    }
    inputs = content_id(*(f"{source.name} {source.target.mark}" for source in sources))
    digest = identity_digest(identity)
    directory = storage.join(config.output, digest) if by_identity else config.output
    return Stage(directory, "import", identity, inputs)


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


def run(
    config: Config,
    beam_arguments: Sequence[str] = (),
    *,
    by_identity: bool = False,
    check: Callable[[pa.Schema], None] = lambda schema: None,
) -> Stage:
    """Import the corpus unless that is done.

    Raises StageError where not one row of it can be used.

    by_identity: into a directory below the output, named by the input and the settings, so that an edited input is
        imported again.
    check: raises UsageError where the table's columns would be of no use to the caller.
    """
    check_apart(config.corpus, config.output)
    storage.check_writable(config.output)
    with at_work(config.output):
        sources = find_sources(config, storage.join(config.output, LOOKS))
        check(sources[0].schema)
        stage = stage_for(config, sources, by_identity=by_identity)
        if not stage.is_done():
            claim(stage)
            stage.withdraw_if_changed({source.shard: source.target for source in sources})
            run_pipeline(lambda root: build(sources, stage, root), beam_arguments, models=False)
    counts = stage.read_manifest()["counts"]
    if not counts["kept"]:
        raise StageError(f"{config.corpus}: not one row could be used: {counts['rejects']}")
    return stage


def refuse_import_flags(path: str, settings: dict[str, str | None]) -> None:
    """Raise UsageError where a setting says how to read a table of a stage.

    Such a table is read as it is.
    """
    if flags := [f"--{name.replace('_', '-')} {value}" for name, value in settings.items() if value]:
        raise UsageError(f"{path}: is a table made by a stage and read by its own columns; leave out {' '.join(flags)}")


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="alignbeam import", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
