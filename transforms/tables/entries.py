"""Entries: one small file for each shard that is complete, which says what it was made of."""

from collections.abc import Mapping

from schemas.errors import UsageError
from schemas.names import check_name
from transforms.tables import storage
from transforms.tables.shards import Target


def entry_path(directory: str, name: str) -> str:
    return storage.join(directory, "entries", f"{name}.json")


def read_entries(directory: str) -> dict[str, dict]:
    """Return a stage directory's entries by the name of their shards' files, in order.

    UsageError where an entry tells of other files than those of its own name.
    """
    home = storage.join(directory, "entries")
    files = storage.files_below(home, lambda path: path.endswith(".json"))
    entries = {}
    for file, entry in zip(files, storage.for_each(storage.read_json, files), strict=True):
        name = storage.relative(file, home).removesuffix(".json")
        shards = {check_name(table, file): shard["path"] for table, shard in entry["tables"].items()}
        if entry["name"] != name or shards != {table: f"{table}/{name}.parquet" for table in shards}:
            raise UsageError(
                f"{file}: names the files of another shard, {[entry['name'], *shards.values()]}; remove it"
            )
        entries[name] = entry
    return entries


def complete_entries(directory: str, targets: Mapping[int, Target]) -> dict[int, dict]:
    """Return the entries of the complete targets, by index, in order.

    Complete are those made of the content as it is now.
    """
    entries = read_entries(directory)
    of_targets = {index: entries.get(target.name) for index, target in sorted(targets.items())}
    return {index: entry for index, entry in of_targets.items() if entry and entry["mark"] == targets[index].mark}
