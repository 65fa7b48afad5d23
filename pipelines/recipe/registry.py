"""Every stage kind, by the name that a recipe gives it.

A project of one's own adds an entry to a copy and runs with that: `run(recipe, output, stages=STAGES | {…})`.
"""

from pipelines import (
    align,
    conflicts,
    curate,
    derive,
    evaluate,
    ingest,
    questions,
    respond,
    score,
    shards,
    train,
    triples,
)
from pipelines.runtime.step import StageKind

STAGES: dict[str, StageKind] = {
    "align": align.KIND,
    "conflicts": conflicts.KIND,
    "curate": curate.KIND,
    "derive": derive.KIND,
    "evaluate": evaluate.KIND,
    "import": ingest.KIND,
    "questions": questions.KIND,
    "respond": respond.KIND,
    "score": score.KIND,
    "shards": shards.KIND,
    "train_aligner": train.ALIGNER,
    "train_inspector": train.INSPECTOR,
    "triples": triples.KIND,
}
