"""What a trainer reads: shards that are there, or those of a curated table, or of triples that are curated first."""

from pipelines import curate, shards
from pipelines.runtime.at_work import at_work
from pipelines.runtime.runs import Record
from pipelines.runtime.step import Place, PlannedStep, TableSource
from pipelines.runtime.steps import alone, check_outside, do_steps
from pipelines.runtime.trained import is_store
from pipelines.runtime.trainers import TRAINERS
from schemas.errors import UsageError
from transforms.tables import storage
from transforms.tables.table import MANIFEST, read_table
from transforms.training_data.rows import TRAINER_ROWS

METHODS = tuple(TRAINERS)
TEXTS = ("question", "response", "correction")
SPLIT_COLUMNS = {rows.column for rows in TRAINER_ROWS}


def check_output(output: str) -> None:
    """Raise UsageError where a model cannot be written."""
    if is_store(output):
        raise UsageError(f"output = {output!r}: the trainers write to a local disk; give a local folder")
    storage.check_writable(storage.folder_of(output) or ".")


def find_shards(method: str, data: str) -> str | None:
    """Return the trainer's shards in `data`, which may lie in a folder of the trainer's name; None for a table."""
    for folder in (data, storage.join(data, method)):
        if storage.exists(storage.join(folder, "train")):
            return folder
    return None


def curation(name: str, data: str) -> tuple[list[PlannedStep], TableSource]:
    """Return the step of this name that curates a table, none where it is curated, and where the rows come from then.

    Raises UsageError where the table is none, or not of triples.
    """
    if not storage.exists(storage.join(data, MANIFEST)):
        raise UsageError(
            f"--data {data}: neither training shards (train/, validation/) nor a table of triples; "
            "make one with alignbeam import --kind triples"
        )
    columns = read_table(data).schema.names
    if missing := [name for name in TEXTS if name not in columns]:
        raise UsageError(f"--data {data}: has no column {', '.join(missing)}, as triples have; it has {columns}")
    if set(columns) >= SPLIT_COLUMNS:
        return [], TableSource(path=data)
    return [alone(PlannedStep(name, curate.KIND, curate.Config(table=data)))], TableSource(step=name)


def shards_for(method: str, data: str, output: str) -> str:
    """Return the trainer's shards in `data`; those of a table are made in `OUTPUT.data`, a run directory."""
    if folder := find_shards(method, data):
        return folder
    steps, source = curation("curated", data)
    steps.append(PlannedStep("shards", shards.KIND, shards.Config(data=data, trainer=method), {"data": source}))
    place = Place(f"{output}.data")
    check_outside(steps, place)
    with at_work(place.output):
        return do_steps(steps, Record(place.output), place)["shards"].directory
