"""What finished steps of a run took: the measure for a step that differs from one of them in its rows alone.

`alignbeam run … --limit 20` leaves such steps behind. They are found by their identities: the same kind, model, prompts
and settings, whatever the tables and the numbers of rows.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from pipelines.runtime.estimates import Measured
from pipelines.runtime.step import ModelSource, Place, PlannedStep
from pipelines.runtime.steps import identity_of
from schemas.errors import UsageError
from schemas.fields import edges
from schemas.settings import validated
from transforms.engines.engine import EngineConfig
from transforms.engines.identity import engine_digest
from transforms.tables import storage
from transforms.tables.chunks import Asked
from transforms.tables.table import MANIFEST
from transforms.tables.write import sum_of_asked

ANY = "*any*"  # stands for what may be otherwise: tables, numbers of rows, models that a step trains
ROUNDS = "rounds"  # where a step that asks in rounds keeps those


def measured(planned: PlannedStep, place: Place) -> Measured | None:
    """Return what the largest step like this one took; None where the run has none."""
    manifests = dict(_manifests(storage.join(place.output, planned.kind.name)))
    if not manifests:
        return None
    planned.kind.recall(place)
    try:
        identity = _identity(planned)
    except UsageError:  # the run's own check says what is wrong
        return None
    alike = [
        _measured(directory, manifest)
        for directory, manifest in manifests.items()
        if "counts" in manifest and _is_alike(identity, manifest.get("identity", {}))
    ]
    return max(alike, key=lambda one: one.rows, default=None)


def _manifests(home: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in storage.list_in(home, f"*/{MANIFEST}"):
        yield storage.folder_of(path), storage.read_json(path)


def _identity(planned: PlannedStep) -> dict[str, Any]:
    def digest_at(path: str) -> Any:
        source = planned.sources.get(path)
        is_generator = getattr(roles.get(path), "role", "") == "generator"
        if not isinstance(source, ModelSource) or source.step or not is_generator:
            return ANY
        return engine_digest(validated(EngineConfig, "engine", dict(source.settings)))

    roles = {edge.path: edge.edge for edge in edges(planned.config)}
    outside = planned.kind.outside(planned.config)
    rows = [item.name for item in fields(planned.config) if item.metadata.get("rows")]
    return identity_of(planned, outside, digest_at) | dict.fromkeys([*outside.paths, *rows], ANY)


def _is_alike(ours: Any, theirs: Any) -> bool:
    """Return whether two identities differ at most in what may be otherwise."""
    if ours in (ANY, theirs):
        return True
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return all(_is_alike(ours.get(name), theirs.get(name)) for name in ours.keys() | theirs.keys())
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        return all(map(_is_alike, ours, theirs))
    return False


def _measured(directory: str, manifest: Mapping[str, Any]) -> Measured:
    parts: dict[str, list[Any]] = defaultdict(list)
    for path, round_manifest in _manifests(storage.join(directory, ROUNDS)):
        name = path.rpartition("/")[2].partition("-")[0]
        parts[name].append(round_manifest.get("tokens"))
    asked = {name: sum_of_asked(tokens) for name, tokens in parts.items()}
    counts = manifest["counts"]
    return Measured(
        directory=directory,
        rows=manifest.get("sampled", counts["in"]),
        kept=counts["kept"] - (sum(counts["rejects"].values()) if counts["kept"] == counts["in"] else 0),
        asked=sum_of_asked([manifest.get("tokens"), *(one._asdict() for one in asked.values())]),
        parts=asked,
        tables={name: table["rows"] for name, table in manifest.get("tables", {}).items()},
    )


def asked_by(directory: str) -> Asked:
    """Return what models were asked for a finished step, its rounds included."""
    return _measured(directory, storage.read_json(storage.join(directory, MANIFEST))).asked
