"""A curated table to training shards, for training somewhere else; a step that trains writes its own.

    alignbeam shards runs/mine/curate/1a2b3c --trainer aligner -o runs/mine

The step's directory has the folders train/, validation/ and test/, which `alignbeam train --data` reads.
"""

import sys
from dataclasses import dataclass

from pipelines.runtime import entrypoint
from pipelines.runtime.step import StageKind, Step
from pipelines.runtime.training_shards import TRAINERS, write_training_shards
from schemas.fields import setting, takes
from schemas.tables import SPLITS

COLUMNS = ("id", "question", "response", "correction", "split", "inspector_split")


@dataclass(frozen=True, kw_only=True)
class Config:
    data: str = takes("curated table of triples", *COLUMNS, positional=True)
    trainer: str = setting(f"whose rows: {' or '.join(TRAINERS)}")
    rows_per_shard: int = setting("rows in a training shard", 10_000)

    def __post_init__(self) -> None:
        if self.trainer not in TRAINERS:
            raise ValueError(f"trainer: must be {' or '.join(TRAINERS)}, not {self.trainer!r}")
        if self.rows_per_shard < 1:
            raise ValueError(f"rows_per_shard: must be at least 1, not {self.rows_per_shard}")


def do(config: Config, step: Step) -> None:
    rows = TRAINERS[config.trainer]
    write_training_shards(step.table("data"), rows, config.rows_per_shard, step.stage, step.beam_arguments)


KIND = StageKind(
    name="shards",
    about="a curated table to training shards, for training somewhere else",
    config=Config,
    do=do,
    gives=lambda config, inputs: dict.fromkeys(SPLITS, TRAINERS[config.trainer].schema),
)

if __name__ == "__main__":
    sys.exit(entrypoint.main(KIND, __doc__))
