"""A run directory: the one reader and the one writer of `run.json`, which lists the stages done there, in order.

The file's head says what the run is: name, recipe, models, seed, versions. An entry of `stages` says how a step stands:

    stage, kind   its name, and what it does: a run may have two of kind `align`
    inputs        the steps that it needs, by name
    directory     where its results are or will be; digest and identity are what decided them
    status        to do, running, done, partial, stale, interrupted or failed; because: of what it is stale
    seconds       that it took
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipelines.runtime.stage import Stage, versions
from pipelines.runtime.step import ModelSource, PlannedStep
from schemas.console import messages
from schemas.errors import UsageError
from schemas.names import check_name
from schemas.urls import redacted
from transforms.tables import storage
from transforms.tables.entries import read_entries
from transforms.tables.table import MANIFEST, Table, read_manifest, read_table

RUN_FILE = "run.json"
DONE = "done"
POINTERS = "steps"  # the folder that names the newest result of every step
FORMS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "started": (str,),
    "toy": (bool,),
    "seed": (int,),
    "models": (dict,),
    "versions": (dict,),
    "recipe": (dict,),
    "stages": (list,),
}
ENTRY_FORMS: dict[str, tuple[type, ...]] = {
    "stage": (str,),
    "kind": (str,),
    "inputs": (list,),
    "directory": (str,),
    "digest": (str,),
    "identity": (dict,),
    "status": (str,),
    "because": (list,),
    "seconds": (int, float),
}


class OtherFile(UsageError):
    """A file of that name that is no run's, and so is left alone."""


class Rows(NamedTuple):
    """How many rows went into a stage, and what became of them."""

    going_in: int
    kept: int
    dropped: int
    rejected: int


@dataclass(frozen=True)
class RecordedStage:
    """A stage as a run lists it, with what it wrote about its results; `manifest` is None until it has finished.

    shards, shard_counts: of an unfinished stage, how many shards are complete, and what became of their rows.
    """

    name: str
    path: str
    status: str
    seconds: float | None
    manifest: dict[str, Any] | None
    kind: str = ""
    inputs: tuple[str, ...] = ()
    because: tuple[str, ...] = ()
    identity: dict[str, Any] = field(default_factory=dict, hash=False)
    shards: int = 0
    shard_counts: dict[str, Any] | None = field(default=None, hash=False)

    @property
    def counts(self) -> dict[str, Any] | None:
        """Return rows in, rows kept, and rows lost by reason, as far as they are known."""
        return self.manifest.get("counts") if self.manifest else self.shard_counts

    @property
    def has_tables(self) -> bool:
        return bool((self.manifest or {}).get("tables")) or self.shards > 0

    @property
    def rows(self) -> Rows | None:
        """Return its counts, None where it counts no rows or has not completed a shard.

        A table of align holds every row, the rejected ones too: these do not count as kept.
        """
        counts = self.counts
        if counts is None:
            return None
        dropped, rejected = (sum(counts[reasons].values()) for reasons in ("drops", "rejects"))
        kept = counts["kept"] - rejected if counts["kept"] == counts["in"] else counts["kept"]
        return Rows(counts["in"], kept, dropped, rejected)

    def setting(self, name: str) -> Any:
        """Return a setting of the stage's identity, None where it has none so called."""
        return ((self.manifest or {}).get("identity") or self.identity).get(name)

    def table(self, name: str) -> Table | None:
        """Return the stage's table `name`, None where it has not written one."""
        if self.manifest is None or name not in self.manifest.get("tables", {}):
            return None
        return read_table(self.path, name)

    def read_json(self, name: str) -> Any:
        """Return what the file `name` beside the manifest says, None where there is no such file."""
        path = storage.join(self.path, name)
        return storage.read_json(path) if storage.exists(path) else None


@dataclass(frozen=True)
class Run:
    """What `run.json` says of a run directory, and what its steps wrote about their results, at one moment."""

    path: str
    stages: tuple[RecordedStage, ...] = ()
    name: str = "run"
    toy: bool = False
    seed: int | None = None
    started: str | None = None
    models: dict[str, Any] = field(default_factory=dict, hash=False)
    versions: dict[str, Any] = field(default_factory=dict, hash=False)
    recipe: dict[str, Any] = field(default_factory=dict, hash=False)

    def stage(self, name: str) -> RecordedStage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def of_kind(self, kind: str) -> list[RecordedStage]:
        """Return the steps of a kind in the run's order."""
        return [stage for stage in self.stages if stage.kind == kind]


def is_run(path: str) -> bool:
    """Return whether a directory is that of a run."""
    return storage.exists(storage.join(path, RUN_FILE))


def open_run(path: str) -> Run:
    """Read `run.json` and the manifests below it.

    Raises UsageError where it is no run directory, or the file is damaged.
    """
    if not is_run(path):
        raise UsageError(f"{path}: no {RUN_FILE} there; name a directory that `alignbeam run` or `align` wrote (-o)")
    about = _read(path)
    stages = tuple(_open_stage(path, entry) for entry in about.pop("stages", ()))
    return Run(path, stages, **{name: about[name] for name in FORMS if name in about})


def _open_stage(path: str, entry: dict[str, Any]) -> RecordedStage:
    directory = storage.join(path, entry.get("directory") or entry["stage"])
    manifest = read_manifest(directory) if storage.exists(storage.join(directory, MANIFEST)) else None
    status = entry.get("status") or "unknown"
    is_begun = manifest is None and status != "to do"  # until then the directory is that of its kind
    shards, counts = _count_shards(directory) if is_begun else (0, None)
    return RecordedStage(
        entry["stage"],
        directory,
        status,
        entry.get("seconds") or (manifest or {}).get("seconds"),
        manifest,
        entry.get("kind") or entry["stage"],
        tuple(str(name) for name in entry.get("inputs") or ()),
        tuple(str(reason) for reason in entry.get("because") or ()),
        entry.get("identity") or {},
        shards,
        counts,
    )


def _count_shards(directory: str) -> tuple[int, dict[str, Any] | None]:
    """Return how many shards of an unfinished stage are complete, and what became of their rows."""
    entries = read_entries(directory).values()
    if not entries:
        return 0, None
    lost = {
        reasons: dict(sum((Counter(entry[reasons]) for entry in entries), Counter[str]()).most_common())
        for reasons in ("drops", "rejects")
    }
    kept = sum(next(iter(entry["tables"].values()))["rows"] for entry in entries)
    return len(entries), {"in": sum(entry["in"] for entry in entries), "kept": kept, **lost}


def _read(path: str) -> dict[str, Any]:
    """Return a run's file, without nulls.

    UsageError names what in it is not as alignbeam writes it.
    """
    file = storage.join(path, RUN_FILE)
    about = {name: value for name, value in storage.read_json(file).items() if value is not None}
    if "method" in about:  # the file that a trainer writes has the same name
        raise OtherFile(f"{file}: is a trained model's; name a directory that `alignbeam run` or `align` wrote (-o)")
    _check_forms(file, "", about, FORMS)
    for number, entry in enumerate(about.get("stages", ())):
        where = f"stages[{number}]"
        if not isinstance(entry, dict) or not entry.get("stage"):
            raise UsageError(f"{file}: {where}: names no stage; restore the file, or remove it and run again")
        _check_forms(file, f"{where}.", entry, ENTRY_FORMS)
        check_name(entry.get("directory") or entry["stage"], f"{file}: {where}.directory")
    return about


def _check_forms(file: str, prefix: str, values: dict[str, Any], forms: dict[str, tuple[type, ...]]) -> None:
    for name, form in forms.items():
        value = values.get(name)
        if value is not None and not isinstance(value, form):
            expected = " or ".join(kind.__name__ for kind in form)
            raise UsageError(f"{file}: {prefix}{name}: expected {expected}, found {type(value).__name__}")


@dataclass(frozen=True)
class Record:
    """What writes a run's file, and what the command knows of the file's head: None keeps what the file says."""

    output: str
    name: str | None = None
    seed: int | None = None
    toy: bool | None = None

    def open(self, steps: Sequence[PlannedStep], recipe: Mapping[str, Any], models: Mapping[str, str]) -> None:
        """Write the run's file with the recipe and its steps, in order, before the first is done.

        What is known of a step stays. Steps that the recipe does not name any more are listed no longer.
        """
        before = self.entries()
        entries = [_to_do(step) | _standing(before.get(step.name, {}), step) for step in steps]
        self._write(self._content(), stages=entries, recipe=redacted(recipe), models=dict(models))

    def write_step(self, planned: PlannedStep, stage: Stage, status: str, seconds: float | None = None) -> None:
        """Write down how a step stands: running, done, partial, interrupted or failed; a step has one entry.

        One that was done already keeps the time that it once took.
        """
        content = self._content()
        names = [entry["stage"] for entry in content["stages"]]
        position = names.index(planned.name) if planned.name in names else len(names)
        before = content["stages"][position] if position < len(names) else {}
        if seconds is None and before.get("digest") == stage.digest:
            seconds = before.get("seconds")
        entry = _to_do(planned) | {
            "directory": stage.directory.removeprefix(self.output.rstrip("/") + "/"),
            "digest": stage.digest,
            "identity": stage.identity,
            "status": status,
            "seconds": round(seconds or 0.0, 2),
        }
        content["stages"][position : position + 1] = [entry]
        self._write(content, models=content["models"] | models_of(planned))
        if status == DONE:
            pointer = {name: entry[name] for name in ("kind", "directory", "digest")}
            storage.write_json(storage.join(self.output, POINTERS, f"{planned.name}.json"), pointer)

    def write_standing(self, name: str, status: str, because: Sequence[str]) -> None:
        """Write down how a step stands that is not done now, and why."""
        content = self._content()
        for entry in content["stages"]:
            if entry["stage"] == name:
                entry |= {"status": status, "because": list(because)}
        self._write(content)

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return what the file says of each step, by name; nothing where the file is damaged, which is told."""
        return {entry["stage"]: entry for entry in self._content()["stages"]}

    def _content(self) -> dict[str, Any]:
        name = self.output.rstrip("/").rpartition("/")[2]
        fresh = {"name": name, "toy": False, "started": _now(), "models": {}, "stages": []}
        if not is_run(self.output):
            return fresh
        try:
            return {"models": {}, "stages": []} | _read(self.output)
        except OtherFile:
            raise
        except UsageError as error:
            kept = f"{RUN_FILE}.damaged"
            messages.print(
                f"{error}; kept as {kept}; it is written anew, and results are found by their directories",
                soft_wrap=True,
            )
            storage.move(storage.join(self.output, RUN_FILE), storage.join(self.output, kept))
            return fresh

    def _write(self, content: dict[str, Any], **new: Any) -> None:
        head = {"name": self.name, "toy": self.toy, "seed": self.seed}
        head |= {name: content[name] for name, value in head.items() if value is None and name in content}
        storage.write_json(storage.join(self.output, RUN_FILE), content | head | {"versions": versions()} | new)


def _to_do(planned: PlannedStep) -> dict[str, Any]:
    return {
        "stage": planned.name,
        "kind": planned.kind.name,
        "inputs": list(planned.needs),
        "directory": planned.kind.name,
        "digest": "",
        "identity": {},
        "status": "to do",
        "seconds": 0.0,
    }


def _standing(entry: Mapping[str, Any], planned: PlannedStep) -> dict[str, Any]:
    """Return what stays of a step's entry where it is planned anew, nothing where it is of another kind now."""
    kept = ("directory", "digest", "identity", "status", "seconds", "because")
    return {name: entry[name] for name in kept if name in entry} if entry.get("kind") == planned.kind.name else {}


def models_of(planned: PlannedStep) -> dict[str, str]:
    """Return the models of a step that no other step trains, by step and field, for the run's file."""
    return {
        f"{planned.name} {path}".strip(): str(source.settings.get("model", ""))
        for path, source in planned.sources.items()
        if isinstance(source, ModelSource) and not source.step
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
