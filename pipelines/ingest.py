"""Make a table of a corpus as people have it: one shard per file, rows in order, other columns untouched.

alignbeam import answers.jsonl.gz -o data/answers
alignbeam import 'hh/*.jsonl.gz' -o data/hh --kind triples
python -m pipelines.ingest answers.csv -o data/answers --question-column prompt -- --runner=FlinkRunner ...
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from pipelines import entrypoint, stages
from pipelines.entrypoint import setting
from schemas.errors import StageError, UsageError
from transforms import corpora, storage
from transforms.tables import Chunk, SplitMarks, WriteTables


@dataclass(frozen=True, kw_only=True)
class Config:
    corpus: str = setting("file, folder or glob: Parquet, JSON lines, JSON, CSV, plain or compressed", positional=True)
    output: str = setting("directory for the table", short="-o")
    kind: corpora.Kind = setting("questions, responses, or triples (also from preference data)", "responses")
    question_column: str | None = setting("column of the question", None)
    response_column: str | None = setting("column of the response", None)
    correction_column: str | None = setting("column of the better response", None)
    limit: int | None = setting("read only so many rows of each file", None)

    @property
    def columns(self) -> dict[str, str | None]:
        return {
            "question": self.question_column,
            "response": self.response_column,
            "correction": self.correction_column,
        }


@dataclass(frozen=True)
class Source:
    """A corpus file, and how its rows are read."""

    shard: int
    path: str
    kind: corpora.Kind
    columns: dict[str, str]
    schema: pa.Schema
    limit: int | None

    def chunks(self) -> Iterator[Chunk]:
        return corpora.read_chunks(self.shard, self.path, self.kind, self.columns, self.schema, self.limit)


def find_sources(config: Config) -> list[Source]:
    """Every file with its columns; UsageError where a file is missing, empty, or lacks a column."""
    sources = []
    for shard, path in enumerate(corpora.find_files(config.corpus)):
        columns = corpora.choose_columns(path, config.kind, config.columns)
        schema = corpora.output_schema(path, config.kind, columns)
        sources.append(Source(shard, path, config.kind, columns, schema, config.limit))
        if not schema.equals(sources[0].schema):
            raise UsageError(
                f"{path}: its columns differ from those of {sources[0].path}: "
                f"{', '.join(schema.names)} against {', '.join(sources[0].schema.names)}"
            )
    return sources


def stage_for(config: Config, sources: list[Source]) -> stages.Stage:
    identity = {
        "files": [[source.path, storage.mark(source.path)] for source in sources],
        "kind": config.kind,
        "columns": sources[0].columns,
        "limit": config.limit,
    }
    return stages.Stage(config.output, "import", identity)


def build(sources: list[Source], stage: stages.Stage, root: beam.Pipeline) -> None:
    done = stage.done_shards()
    kind = sources[0].kind
    schemas = {kind: sources[0].schema, "rejects": corpora.REJECTS}
    (
        root
        | "Files" >> beam.Create([source for source in sources if source.shard not in done])
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(Source.chunks).with_output_types(Chunk)
        | "Write" >> WriteTables(stage.directory, schemas, SplitMarks(kind), len(sources), stage.about)
    )


def run(config: Config, beam_arguments: Sequence[str] = ()) -> stages.Stage:
    """Import the corpus unless it has been; StageError where not one row of it could be used."""
    storage.check_writable(config.output)
    sources = find_sources(config)
    stage = stage_for(config, sources)
    if not stage.is_complete:
        stages.run_pipeline(lambda root: build(sources, stage, root), beam_arguments)
    counts = stage.manifest["counts"]
    if not counts["kept"]:
        raise StageError(f"{config.corpus}: not one row could be used: {counts['rejects']}")
    return stage


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="alignbeam import", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
