"""Score every response of a table with the inspectors of a squad: the first pass of a routing by mean scores.

    python -m pipelines.score data/answers --set inspectors.ethical=models/ethical/inspector -o runs/mine

`alignbeam align` runs this where the squad's routing asks for it. The scores lie in `inspect/`, with the corpus's
shards and rows.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines.runtime import entrypoint
from pipelines.runtime.stage import Stage, complete
from schemas.command_line import setting
from schemas.tables import RESPONSES
from transforms.alignment.routing import start_state
from transforms.alignment.scoring import Score
from transforms.engines.inspector import check_inspector, inspector_digest
from transforms.tables.chunks import Chunk, MapBatches
from transforms.tables.columns import check_texts
from transforms.tables.read import ReadTable
from transforms.tables.table import Table, read_table
from transforms.tables.write import WriteTables


@dataclass(frozen=True, kw_only=True)
class Config:
    corpus: str = setting("table of responses that a stage made", positional=True)
    output: str = setting("run directory", short="-o")
    inspectors: dict[str, str] = field(default_factory=dict)  # criterion: folder of its inspector
    limit: int | None = setting("score only the first N rows", None)
    bf16: bool = setting("inspectors score in bfloat16: faster, and within 0.01 of float32", False)

    def __post_init__(self) -> None:
        if not self.inspectors:
            raise ValueError("inspectors: give at least one, such as --set inspectors.ethical=models/inspector")


def stage_for(config: Config, corpus: Table) -> Stage:
    identity = {
        "schema": corpus.schema.to_string(),
        "inspectors": {criterion: inspector_digest(folder) for criterion, folder in config.inspectors.items()},
        "bf16": config.bf16,
    }
    return Stage.under(config.output, "inspect", identity, corpus.digest)


def build(config: Config, corpus: Table, stage: Stage, root: beam.Pipeline, skip: frozenset[int]) -> None:
    scores = pa.struct({criterion: pa.float64() for criterion in config.inspectors})
    schemas = {"scores": pa.schema({"id": pa.string(), "scores": scores})}
    (
        root
        | "Read" >> ReadTable(corpus, RESPONSES.names, skip)
        | "StartState" >> MapBatches(start_state)
        | "Score" >> Score(config.inspectors, "response", "scores", "score responses", config.bf16)
        | "Write" >> WriteTables(stage.directory, schemas, every_row, corpus.targets, stage.about)
    )


def every_row(chunk: Chunk) -> dict[str, pa.RecordBatch]:
    return {"scores": chunk.batch}


def run(config: Config, beam_arguments: Sequence[str] = ()) -> Stage:
    """Score the rows that have no scores yet."""
    for folder in config.inspectors.values():
        check_inspector(folder)
    corpus = read_table(config.corpus).head(config.limit)
    check_texts(config.corpus, corpus.schema, RESPONSES.names)
    stage = stage_for(config, corpus)
    complete(stage, corpus, partial(build, config, corpus, stage), beam_arguments)
    return stage


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="python -m pipelines.score", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
