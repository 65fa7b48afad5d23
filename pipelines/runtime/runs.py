"""A run directory: the stages done in it, in order, listed in `run.json` for status, show and report."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.report.run_directory import RUN_FILE, read_run_file
from pipelines.runtime.stage import Stage, versions
from transforms.tables import storage


@dataclass(frozen=True)
class Run:
    """A run's directory and what its head says: name, criterion, models, seed, whether its models are toys."""

    output: str
    name: str | None = None  # None in any of these keeps what the run's file says
    criterion: str | None = None
    seed: int | None = None
    toy: bool | None = None

    def read(self) -> dict:
        if storage.exists(storage.join(self.output, RUN_FILE)):
            return read_run_file(self.output)
        name = self.output.rstrip("/").rpartition("/")[2]
        return {"name": name, "criterion": "", "toy": False, "started": _now(), "models": {}, "stages": []}

    def record(self, stage: Stage, status: str, seconds: float, models: dict[str, str] | None = None) -> None:
        """Write down how a stage stands: running, complete, partial or failed. One entry per stage, the newest."""
        known = self.read()
        entry = {
            "stage": stage.name,
            "directory": stage.directory.removeprefix(self.output.rstrip("/") + "/"),
            "digest": stage.digest,
            "identity": stage.identity,
            "status": status,
            "seconds": round(seconds, 2),
        }
        before: dict[str, Any] = next((other for other in known["stages"] if other["stage"] == stage.name), {})
        if before.get("digest") == stage.digest and before.get("status") == status == "complete":
            entry["seconds"] = before["seconds"]  # found done: what it once took still stands
        stages = [other for other in known["stages"] if other["stage"] != stage.name]
        place = next((i for i, other in enumerate(known["stages"]) if other["stage"] == stage.name), len(stages))
        stages.insert(place, entry)
        self._write(known, models=known["models"] | (models or {}), stages=stages)

    def note_failure(self, stage_name: str, seconds: float) -> None:
        """List a stage as failed, also one of which nothing more is known yet; its directory stays."""
        known = self.read()
        failed = {"status": "failed", "seconds": round(seconds, 2)}
        entry = next((entry for entry in known["stages"] if entry["stage"] == stage_name), None)
        if entry is None:
            unknown = {"stage": stage_name, "directory": stage_name, "digest": "", "identity": {}}
            known["stages"].append(unknown | failed)
        else:
            entry |= failed
        self._write(known)

    def open(self, recipe: dict, criteria: Sequence[str] = ()) -> None:
        """Write the run's file with the settings that it is run with, before the first stage.

        criteria: folders below this one, each the run of one criterion of a squad.
        """
        self._write(self.read(), recipe=recipe, criteria=list(criteria))

    def _write(self, known: dict, **new: Any) -> None:
        head = {"name": self.name, "criterion": self.criterion, "toy": self.toy, "seed": self.seed}
        head |= {name: known[name] for name, value in head.items() if value is None and name in known}
        storage.write_json(storage.join(self.output, RUN_FILE), known | head | {"versions": versions()} | new)

    @contextmanager
    def watched(self, stage: Stage, models: dict[str, str] | None = None) -> Iterator[None]:
        """Record a stage as running, then as complete, partial or failed; one that was complete stays as it was."""
        if stage.is_done() and any(entry["digest"] == stage.digest for entry in self.read()["stages"]):
            yield
            return
        started = time.monotonic()
        self.record(stage, "running", 0.0, models)
        try:
            yield
        except BaseException:
            self.record(stage, "failed", time.monotonic() - started, models)
            raise
        self.record(stage, "complete" if stage.is_done() else "partial", time.monotonic() - started, models)

    def identities(self) -> dict[str, dict]:
        """What decided the results of each stage when it last ran here."""
        return {entry["stage"]: entry["identity"] for entry in self.read()["stages"]}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
