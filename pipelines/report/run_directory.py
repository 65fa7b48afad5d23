"""A run directory as it lies on disk: `run.json`, and a directory with a manifest for each stage that has finished."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from schemas.errors import UsageError
from schemas.names import check_name
from transforms.tables import storage
from transforms.tables.table import MANIFEST, Table, read_manifest, read_table

RUN_FILE = "run.json"


class Rows(NamedTuple):
    """How many rows went into a stage, and what became of them."""

    going_in: int
    kept: int
    dropped: int
    rejected: int


@dataclass(frozen=True)
class Stage:
    """One stage of a run; `manifest` is None until it has finished."""

    name: str
    path: str
    status: str
    seconds: float | None
    manifest: dict[str, Any] | None

    @property
    def has_tables(self) -> bool:
        return bool((self.manifest or {}).get("tables"))

    @property
    def rows(self) -> Rows | None:
        """Its counts, None where it has not finished or counts no rows. Where a stage's table holds every row, the
        rejected ones too (align), these do not count as kept."""
        counts = (self.manifest or {}).get("counts")
        if counts is None:
            return None
        dropped, rejected = (sum(counts[kind].values()) for kind in ("drops", "rejects"))
        kept = counts["kept"] - rejected if counts["kept"] == counts["in"] else counts["kept"]
        return Rows(counts["in"], kept, dropped, rejected)

    def setting(self, name: str) -> Any:
        """What the stage's identity says of a setting, None where it has none so called."""
        return (self.manifest or {}).get("identity", {}).get(name)

    def table(self, name: str) -> Table | None:
        """The stage's table `name`, None where it has not written one."""
        if self.manifest is None or name not in self.manifest.get("tables", {}):
            return None
        return read_table(self.path, name)

    def json(self, name: str) -> Any:
        """What the file `name` beside the manifest says, None where there is no such file."""
        path = storage.join(self.path, name)
        return storage.read_json(path) if storage.exists(path) else None


@dataclass(frozen=True)
class Run:
    """A run directory: what `run.json` says about it, and its stages in order."""

    path: str
    about: dict[str, Any]
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def table(self, stage: str, name: str) -> Table | None:
        found = self.stage(stage)
        return found.table(name) if found else None


def read_run_file(path: str) -> dict[str, Any]:
    """Return what `run.json` says; UsageError where a stage, or a criterion's run, lies outside the run directory."""
    file = storage.join(path, RUN_FILE)
    about = storage.read_json(file)
    for entry in about.get("stages", []):
        check_name(entry.get("directory") or entry["stage"], file)
    for criterion in about.get("criteria", []):
        check_name(criterion, file)
    return about


def open_run(path: str) -> Run:
    """Read `run.json` and the manifests below it. Raises UsageError where `path` is not a run directory."""
    if not storage.exists(storage.join(path, RUN_FILE)):
        raise UsageError(f"{path}: no run.json there; name a directory that `alignbeam run` or `align` wrote (-o)")
    about = read_run_file(path)
    return Run(path, about, tuple(_open_stage(path, entry) for entry in about.get("stages", [])))


def _open_stage(path: str, entry: dict[str, Any]) -> Stage:
    directory = storage.join(path, entry.get("directory") or entry["stage"])
    manifest = read_manifest(directory) if storage.exists(storage.join(directory, MANIFEST)) else None
    seconds = entry.get("seconds") or (manifest or {}).get("seconds")
    return Stage(entry["stage"], directory, entry.get("status", "unknown"), seconds, manifest)
