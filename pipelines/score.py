"""Score every response of a table with the inspectors of a squad: the first pass of a routing by mean scores.

    alignbeam score data/answers --set inspectors.ethical=models/ethical/inspector -o runs/mine

`alignbeam align` does this where the squad's routing asks for it. The scores have the table's shards and rows.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines.runtime import entrypoint
from pipelines.runtime.step import Schemas, StageKind, Step, always, complete_step
from schemas.command_line import check_limit
from schemas.fields import setting, takes, uses
from transforms.alignment.layers import read_responses
from transforms.alignment.routing import start_state
from transforms.alignment.scoring import Score
from transforms.tables.chunks import Chunk, MapBatches
from transforms.tables.read import ReadTable


@dataclass(frozen=True, kw_only=True)
class Config:
    """inspectors: by criterion."""

    responses: str | dict[str, str] = takes("table of responses", "id", "question", answer=True, positional=True)
    inspectors: dict[str, str] = uses("inspector", "who scores, by criterion: --set inspectors.NAME=FOLDER")
    limit: int | None = setting("score only the first N rows", None, limits="responses")
    bf16: bool = setting("inspectors score in bfloat16: faster, and within 0.01 of float32", False)

    def __post_init__(self) -> None:
        check_limit(self.limit)
        if not self.inspectors:
            raise ValueError("inspectors: give at least one, such as --set inspectors.ethical=models/inspector")


def tables_of(config: Config, inputs: Mapping[str, pa.Schema]) -> Schemas:
    scores = pa.struct({criterion: pa.float64() for criterion in config.inspectors})
    return {"scores": pa.schema({"id": pa.string(), "scores": scores})}


def build(config: Config, step: Step, root: beam.Pipeline, skip: frozenset[int]) -> None:
    responses, answer = step.table("responses"), step.answers["responses"]
    inspectors = {criterion: step.folder(f"inspectors.{criterion}") for criterion in config.inspectors}
    columns = list(dict.fromkeys(("id", "question", answer)))
    (
        root
        | "Read" >> ReadTable(responses, columns, skip)
        | "Answer" >> MapBatches(partial(read_responses, answer=answer))
        | "StartState" >> MapBatches(start_state)
        | "Score" >> Score(inspectors, "response", "scores", "score responses", config.bf16)
        | "Write" >> step.write(tables_of(config, {}), responses, every_row)
    )


def every_row(chunk: Chunk) -> dict[str, pa.RecordBatch]:
    return {"scores": chunk.batch}


KIND = StageKind(
    name="score",
    about="inspectors score every response of a table",
    config=Config,
    do=partial(complete_step, build=build, over="responses"),
    gives=tables_of,
    runs_models=always,
    grows=always,
)

if __name__ == "__main__":
    sys.exit(entrypoint.main(KIND, __doc__))
