"""Training shards of a curated table, as a step of their own or below the directory of a step that trains."""

from collections.abc import Sequence

from pipelines.runtime.at_work import at_work
from pipelines.runtime.beam import run_pipeline
from pipelines.runtime.stage import Stage
from schemas.errors import StageError
from schemas.tables import SPLITS
from transforms.tables import storage
from transforms.tables.identity import content_id
from transforms.tables.table import MANIFEST, Table, read_manifest, read_table
from transforms.training_data.rows import TRAINER_ROWS, TrainerRows
from transforms.training_data.shards import WriteTrainingShards, count_rows, plan_shards

TRAINERS = {rows.name: rows for rows in TRAINER_ROWS}


def write_training_shards(
    curated: Table, trainer_rows: TrainerRows, rows_per_shard: int, stage: Stage, beam_arguments: Sequence[str] = ()
) -> None:
    """Write a trainer's train/, validation/ and test/ into a stage's directory.

    Nothing is done where the stage is, and shards that are complete stay. Rows that belong to no split are left out.
    Raises StageError where no row is to be trained on.
    """
    if stage.is_done():
        return
    with at_work(stage.directory):
        curated = curated.head(None)
        triples_per_shard = max(rows_per_shard // trainer_rows.rows_per_triple, 1)
        counts = count_rows(curated, trainer_rows.column)
        if not any(counts["train"].values()):
            raise StageError(
                f"{curated.path}: no row has the {trainer_rows.column} train, so there is nothing for the "
                f"{trainer_rows.name} to learn; curate more rows, or give other shares"
            )
        plan = plan_shards(counts, triples_per_shard)
        write = WriteTrainingShards(curated, trainer_rows, plan, stage.directory, stage.about)
        write.skip = stage.done_shards(write.targets)
        run_pipeline(lambda root: root | write, beam_arguments, models=False)
        _count_all_splits(stage)


def digest_of_splits(table: Table) -> str:
    """Return what stands for what a trainer reads: of its shards all splits, because validation chooses the checkpoint.

    Of any other table it is the table's own digest.
    """
    has_manifest = storage.exists(storage.join(table.path, MANIFEST))
    splits = [name for name in read_manifest(table.path).get("tables", {}) if name in SPLITS] if has_manifest else []
    return content_id(*(read_table(table.path, name).digest for name in splits)) if splits else table.digest


def _count_all_splits(stage: Stage) -> None:
    """Count the rows of all splits in the manifest; as it was written, only those to train on are kept."""
    manifest = stage.read_manifest()
    rows = sum(table["rows"] for table in manifest["tables"].values())
    manifest["counts"] |= {"in": rows, "kept": rows}
    storage.write_json(storage.join(stage.directory, MANIFEST), manifest)
