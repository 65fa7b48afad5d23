"""Files of two-way items, each with a right and a wrong option: how they are imported for an evaluation."""

from collections.abc import Sequence

from pipelines import ingest
from pipelines.runtime.stage import Stage
from schemas.urls import without_query
from transforms.tables import storage


def two_way_items(path: str, output: str) -> ingest.Config:
    """Return how a file of two-way items is imported: as triples, of which the response is the wrong option."""
    return ingest.Config(corpus=path, output=output, kind="triples", response_column="rejected")


def import_two_way(paths: Sequence[str], output: str, beam_arguments: Sequence[str]) -> dict[str, Stage]:
    """Import files of two-way items below a run; return their tables by the files' names, by path where two agree."""
    names = [without_query(path).rsplit("/", 1)[-1].split(".")[0] for path in paths]
    imports = {}
    for name, path in zip(names, paths, strict=True):
        items = two_way_items(path, storage.join(output, "two_way", name))
        imports[path if names.count(name) > 1 else name] = ingest.run(items, beam_arguments, by_identity=True)
    return imports
