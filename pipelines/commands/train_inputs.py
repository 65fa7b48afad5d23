"""The shards that a trainer reads: those that are there, or those made by curating a table of triples."""

from pipelines import curate
from schemas.errors import UsageError
from transforms.tables import storage
from transforms.tables.table import MANIFEST

METHODS = ("inspector", "aligner")


def find_shards(method: str, data: str) -> str | None:
    """Return the trainer's shards in `data`, which may be those of a curate stage.

    It is None where it is to be curated. UsageError where it is neither shards nor a table.
    """
    if storage.exists(storage.join(data, "train")):
        return data
    if storage.exists(storage.join(data, method, "train")):
        return storage.join(data, method)
    if not storage.exists(storage.join(data, MANIFEST)):
        raise UsageError(
            f"--data {data}: neither training shards (train/, validation/) nor a table of triples; "
            "make one with alignbeam import --kind triples"
        )
    return None


def shards_for(method: str, data: str, output: str) -> str:
    """Return the trainer's shards in `data`, a table of triples being curated first."""
    if shards := find_shards(method, data):
        return shards
    stage = curate.run(curate.Config(input=data, output=f"{output}.data"))
    return storage.join(stage.directory, method)
