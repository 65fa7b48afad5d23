"""Training shards: folders `train`, `validation` and, if there is one, `test`, each of Parquet files, on any store."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import UsageError
from schemas.tables import SPLITS
from transforms.tables import storage
from transforms.tables.identity import content_id

REQUIRED = SPLITS[:2]  # train, validation


def shard_paths(data: str, split: str) -> list[str]:
    """Return the Parquet files of a split, sorted by name.

    There are none where the split does not exist.
    """
    return storage.list_in(storage.join(data, split), "*.parquet")


def read_split(data: str, split: str, schema: pa.Schema) -> pa.Table:
    """Read the rows of a split, with the columns of `schema` only.

    Raises UsageError where the split has no rows, a file is no Parquet, or a column is missing, of another type, or
    null anywhere.
    """
    paths = shard_paths(data, split)
    if not paths:
        raise UsageError(
            f"{storage.join(data, split)}: no *.parquet there; training data has the folders train, validation"
        )
    table = pa.concat_tables([_read_shard(path, schema) for path in paths])
    if not table.num_rows:
        raise UsageError(f"{storage.join(data, split)}: its {len(paths)} shards hold no rows")
    return table


def _read_shard(path: str, schema: pa.Schema) -> pa.Table:
    fs, local = storage.filesystem(path)
    try:
        with fs.open(local, "rb") as file:
            table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path}: cannot be read as Parquet: {error}") from error
    missing = [name for name in schema.names if name not in table.schema.names]
    if missing:
        raise UsageError(f"{path}: has no column {', '.join(missing)} (it has {', '.join(table.schema.names)})")
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"{path}: a column has another type than {schema.to_string()!r}: {error}") from error
    for name in schema.names:
        if nulls := table.column(name).null_count:
            row = pc.index(table.column(name).is_null(), True).as_py()
            raise UsageError(f"{path}: column {name} is null in {nulls} rows, first in row {row}")
    return table


def read_splits(data: str, schema: pa.Schema) -> dict[str, pa.Table]:
    """Read every split, by name; `test` only where it exists."""
    if not storage.is_directory(data):
        raise UsageError(f"{data}: no such folder of training shards")
    return {split: read_split(data, split, schema) for split in SPLITS if split in REQUIRED or shard_paths(data, split)}


def data_digest(data: str) -> str:
    """Return 32 hexadecimal digits of the shards' content; the name of their folder does not count."""
    parts = []
    for split in SPLITS:
        for path in shard_paths(data, split):
            parts += [split, path.rpartition("/")[2], storage.content_digest(path)[0]]
    return content_id(*parts)


def manifest_digest(data: str) -> str | None:
    """Return the digest in the manifest beside or above the shards.

    It is None where they came without one.
    """
    for folder in (data, data.rstrip("/").rpartition("/")[0]):
        if folder and storage.exists(path := storage.join(folder, "manifest.json")):
            return storage.read_json(path).get("digest")
    return None
