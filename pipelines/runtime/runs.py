"""A run directory: the one reader and the one writer of `run.json`, which lists the stages done there, in order.

The file's head says what the run is: name, criterion, models, seed, versions. An entry of `stages` says how one stands:

    stage, kind   its name, and what it does: a run may have two of kind `align`, called align and align_compared
    inputs        the stages that it read, by name; `ethical/triples` is one of a run below, `heldout/1a2b` a directory
    directory     where its results are or will be; digest and identity are what decided them
    status        running, complete, partial or failed; seconds that it took
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipelines.runtime.stage import Stage, versions
from schemas.errors import UsageError
from schemas.names import check_name
from transforms.tables import storage
from transforms.tables.table import MANIFEST, Table, read_manifest, read_table

RUN_FILE = "run.json"
SECOND = "_compared"  # how a second stage of a kind ends where the file names no kinds
FORMS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "criterion": (str,),
    "started": (str,),
    "toy": (bool,),
    "seed": (int,),
    "models": (dict,),
    "versions": (dict,),
    "criteria": (list,),
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
    "seconds": (int, float),
}


class Rows(NamedTuple):
    """How many rows went into a stage, and what became of them."""

    going_in: int
    kept: int
    dropped: int
    rejected: int


@dataclass(frozen=True)
class RecordedStage:
    """A stage as a run lists it, with what it wrote about its results; `manifest` is None until it has finished."""

    name: str
    path: str
    status: str
    seconds: float | None
    manifest: dict[str, Any] | None
    kind: str = ""
    inputs: tuple[str, ...] = ()

    @property
    def has_tables(self) -> bool:
        return bool((self.manifest or {}).get("tables"))

    @property
    def rows(self) -> Rows | None:
        """Return its counts, None where it has not finished or counts no rows.

        A table of align holds every row, the rejected ones too: these do not count as kept.
        """
        counts = (self.manifest or {}).get("counts")
        if counts is None:
            return None
        dropped, rejected = (sum(counts[reasons].values()) for reasons in ("drops", "rejects"))
        kept = counts["kept"] - rejected if counts["kept"] == counts["in"] else counts["kept"]
        return Rows(counts["in"], kept, dropped, rejected)

    def setting(self, name: str) -> Any:
        """Return a setting of the finished stage's identity, None where it has none so called."""
        return (self.manifest or {}).get("identity", {}).get(name)

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
    """What `run.json` says of a run directory, and what its stages wrote about their results, at one moment.

    criteria: folders below, each the run of one criterion of a squad.
    """

    path: str
    stages: tuple[RecordedStage, ...] = ()
    name: str = "run"
    criterion: str | None = None
    toy: bool = False
    seed: int | None = None
    started: str | None = None
    models: dict[str, Any] = field(default_factory=dict, hash=False)
    versions: dict[str, Any] = field(default_factory=dict, hash=False)
    criteria: tuple[str, ...] = ()

    def stage(self, name: str) -> RecordedStage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def of_kind(self, kind: str) -> list[RecordedStage]:
        """Return the stages of a kind in the run's order.

        First stands the one that is called as its kind.
        """
        return sorted((stage for stage in self.stages if stage.kind == kind), key=lambda stage: stage.name != kind)

    def first_of(self, kind: str) -> RecordedStage | None:
        return next(iter(self.of_kind(kind)), None)


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
    criteria = tuple(about.pop("criteria", ()))
    return Run(path, stages, criteria=criteria, **{name: about[name] for name in FORMS if name in about})


def _open_stage(path: str, entry: dict[str, Any]) -> RecordedStage:
    directory = storage.join(path, entry.get("directory") or entry["stage"])
    manifest = read_manifest(directory) if storage.exists(storage.join(directory, MANIFEST)) else None
    return RecordedStage(
        entry["stage"],
        directory,
        entry.get("status") or "unknown",
        entry.get("seconds") or (manifest or {}).get("seconds"),
        manifest,
        entry.get("kind") or entry["stage"].removesuffix(SECOND),
        tuple(entry.get("inputs") or ()),
    )


def _read(path: str) -> dict[str, Any]:
    """Return a run's file, without nulls.

    UsageError names what in it is not as alignbeam writes it.
    """
    file = storage.join(path, RUN_FILE)
    about = {name: value for name, value in storage.read_json(file).items() if value is not None}
    _check_forms(file, "", about, FORMS)
    if "method" in about:  # the file that a trainer writes has the same name
        raise UsageError(f"{file}: is a trained model's; name a directory that `alignbeam run` or `align` wrote (-o)")
    for number, entry in enumerate(about.get("stages", ())):
        where = f"stages[{number}]"
        if not isinstance(entry, dict) or not entry.get("stage"):
            raise UsageError(f"{file}: {where}: names no stage; restore the file, or remove it and run again")
        _check_forms(file, f"{where}.", entry, ENTRY_FORMS)
        check_name(entry.get("directory") or entry["stage"], f"{file}: {where}.directory")
    for name in about.get("criteria", ()):
        check_name(name, f"{file}: criteria")
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
    criterion: str | None = None
    seed: int | None = None
    toy: bool | None = None

    def open(self, recipe: dict, criteria: Sequence[str] = ()) -> None:
        """Write the run's file with the settings that it is run with, before the first stage.

        criteria: folders below this one, each the run of one criterion of a squad.
        """
        self._write(self._content(), recipe=recipe, criteria=list(criteria))

    def write_stage(
        self,
        stage: Stage,
        status: str,
        seconds: float,
        models: dict[str, str] | None = None,
        inputs: Sequence[str] | None = None,
    ) -> None:
        """Write down how a stage stands: running, complete, partial or failed.

        A stage has one entry, the newest.

        inputs: the stages that it read; None keeps what its entry says, where that is of the same digest.
        """
        content = self._content()
        names = [entry["stage"] for entry in content["stages"]]
        position = names.index(stage.name) if stage.name in names else len(names)
        before = content["stages"][position] if position < len(names) else {}
        is_same = before.get("digest") == stage.digest
        if is_same and before.get("status") == status == "complete":
            seconds = before.get("seconds", seconds)  # it was done already: what it once took still stands
        if inputs is None:
            inputs = before.get("inputs", ()) if is_same else ()
        entry = {
            "stage": stage.name,
            "kind": stage.kind or stage.name,
            "inputs": list(inputs),
            "directory": stage.directory.removeprefix(self.output.rstrip("/") + "/"),
            "digest": stage.digest,
            "identity": stage.identity,
            "status": status,
            "seconds": round(seconds, 2),
        }
        content["stages"][position : position + 1] = [entry]
        self._write(content, models=content["models"] | (models or {}))

    def write_failure(self, stage_name: str, seconds: float) -> None:
        """List a stage as failed, also one of which nothing more is known yet.

        Its directory stays.
        """
        content = self._content()
        failed = {"status": "failed", "seconds": round(seconds, 2)}
        entry = next((entry for entry in content["stages"] if entry["stage"] == stage_name), None)
        if entry is None:
            nothing_else = {"stage": stage_name, "directory": stage_name, "digest": "", "identity": {}}
            content["stages"].append(nothing_else | failed)
        else:
            entry |= failed
        self._write(content)

    @contextmanager
    def watched(
        self, stage: Stage, models: dict[str, str] | None = None, inputs: Sequence[str] | None = None
    ) -> Iterator[None]:
        """Record a stage as running, then as complete, partial or failed.

        One that was complete stays as it was.
        """
        if stage.is_done() and any(entry.get("digest") == stage.digest for entry in self._content()["stages"]):
            yield
            return
        started = time.monotonic()
        self.write_stage(stage, "running", 0.0, models, inputs)
        try:
            yield
        except BaseException:
            self.write_stage(stage, "failed", time.monotonic() - started, models)
            raise
        self.write_stage(stage, "complete" if stage.is_done() else "partial", time.monotonic() - started, models)

    def identities(self) -> dict[str, dict]:
        """Return what decided the results of each stage when it last ran here."""
        return {entry["stage"]: entry.get("identity") or {} for entry in self._content()["stages"]}

    def directory_of(self, stage_name: str) -> str | None:
        """Return where the results of a stage lie, None where it is not complete."""
        for entry in self._content()["stages"]:
            if entry["stage"] == stage_name and entry.get("status") == "complete":
                return storage.join(self.output, entry.get("directory") or stage_name)
        return None

    def _content(self) -> dict[str, Any]:
        if is_run(self.output):
            return {"models": {}, "stages": []} | _read(self.output)
        name = self.output.rstrip("/").rpartition("/")[2]
        return {"name": name, "criterion": "", "toy": False, "started": _now(), "models": {}, "stages": []}

    def _write(self, content: dict[str, Any], **new: Any) -> None:
        head = {"name": self.name, "criterion": self.criterion, "toy": self.toy, "seed": self.seed}
        head |= {name: content[name] for name, value in head.items() if value is None and name in content}
        storage.write_json(storage.join(self.output, RUN_FILE), content | head | {"versions": versions()} | new)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
