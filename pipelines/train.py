"""Train a model from curated data: a trainer as a step of a run.

    alignbeam train inspector --data runs/mine/curate/1a2b3c --output models/inspector

Papers 000, section 2 and app. C (inspector, aligner). The input is a curated table, whose shards for this trainer are
written first, or what `shards` wrote. The step's directory is the trained model's folder. Its shards lie beside it
until the model is whole, so that a training that stopped goes on from what it read.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pipelines.runtime import trainers
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import ModelKind, StageKind, Step
from pipelines.runtime.trained import is_store, put_on_store, trained_folder
from pipelines.runtime.training_shards import TRAINERS, write_training_shards
from training import aligner, inspector
from training.reporting import check_installed
from transforms.tables import storage
from transforms.tables.table import MANIFEST

ROWS_PER_SHARD = 10_000
ABOUT = {
    "inspector": "curated triples to an inspector: an encoder that scores how far an answer meets a criterion",
    "aligner": "curated triples to an aligner: a small model that rewrites an answer",
}
GIVES: Mapping[str, ModelKind] = {
    "inspector": ModelKind(("inspector", "encoder")),
    "aligner": ModelKind(("generator", "base")),
}


def do(method: str, config: Any, step: Step) -> None:
    """Train what is not trained yet; the manifest is written when the model is whole, also where that is on a store."""
    stage = step.stage
    if stage.is_done():  # no row of a training fails, so that none is asked for again
        return
    started = time.monotonic()
    folder = trained_folder(stage, step.place)
    table, shards = step.table("data"), shards_stage(method, step)
    if shards:
        write_training_shards(table, TRAINERS[method], ROWS_PER_SHARD, shards, step.beam_arguments)
    data = shards.directory if shards else table.path
    trainers.train(method, replace(config, data=data, output=folder, base=step.folder("base")), step.place.launch)
    if is_store(step.place.output):
        put_on_store(folder, stage)
    rows = storage.read_json(storage.join(folder, "metrics.json"))["rows"]
    counts = {"in": sum(rows.values()), "kept": rows["train"], "drops": {}, "rejects": {}}
    manifest = {**stage.about, "tables": {}, "counts": counts, "seconds": time.monotonic() - started}
    storage.write_json(storage.join(stage.directory, MANIFEST), manifest)
    if shards:
        storage.remove(shards.directory)


def shards_stage(method: str, step: Step) -> Stage | None:
    """Return where a curated table's shards are written; None where the input is shards already."""
    table = step.table("data")
    if TRAINERS[method].column not in table.schema.names:
        return None
    return Stage(f"{step.stage.directory}.data", method, {"curated": table.digest})


def check(config: Any) -> None:
    check_installed(config.report_to)


def kind(method: str, config: type) -> StageKind:
    """Return the stage kind of a trainer: the module `training.METHOD` with its Config."""
    return StageKind(
        name=f"train_{method}",
        about=ABOUT[method],
        config=config,
        do=partial(do, method),
        gives=lambda config, inputs: GIVES[method],
        check=check,
        trains=True,
    )


INSPECTOR = kind("inspector", inspector.Config)
ALIGNER = kind("aligner", aligner.Config)
