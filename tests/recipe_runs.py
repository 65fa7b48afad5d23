"""Recipes run as `alignbeam run` does them, with scripted models and no real training; what is written then."""

import copy
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from triples_to_curate import GOOD

from pipelines.commands import run
from pipelines.report import page
from pipelines.runtime import trainers
from transforms.engines import running
from transforms.tables.table import read_manifest, read_table


def scripted(function: str) -> dict[str, Any]:
    """An entry of `models` that answers by a function of tests.scripted_models."""
    return {"engine": "scripted", "args": {"function": f"tests.scripted_models:{function}"}}


def scorer(function: str) -> dict[str, Any]:
    """An entry of `models` that scores by a function of tests.scripted_models."""
    return {"model": f"scripted:tests.scripted_models:{function}"}


LOG = "requests.log"
QUESTIONS = {"stage": "questions", "model": "teacher", "pack": "ethical", "count": 60, "topic_rounds": 1, "hints": 5}
TRIPLES = {"stage": "triples", "questions": "questions", "model": "teacher", "pack": "ethical"}
RECIPE = {"name": "test", "models": {"teacher": scripted("teacher")}, "steps": {"questions": QUESTIONS}}
RECIPE["steps"]["triples"] = TRIPLES
PAIRS = [{name: row[name] for name in ("question", "response", "correction")} for row in GOOD[:60]]
SPLITS = ["train"] * 4 + ["validation", "test"]
CURATED = [row | {"split": split, "inspector_split": split} for row, split in zip(PAIRS, SPLITS, strict=False)]


@dataclass
class Runs:
    """A folder with a recipe and its run directory; a call runs it with flags and returns the exit code."""

    folder: Path
    recipe: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(RECIPE))
    output: str = "run"

    def __call__(self, *flags: str) -> int:
        (self.folder / "r.yaml").write_text(yaml.safe_dump(self.recipe, sort_keys=False))
        return run.main([str(self.folder / "r.yaml"), "-o", str(self.run), *flags])

    @property
    def run(self) -> Path:
        return self.folder / self.output

    @property
    def about(self) -> dict[str, Any]:
        return json.loads((self.run / "run.json").read_text())

    def of_steps(self, name: str) -> dict[str, Any]:
        """What run.json says of each step under a key such as `status`, where it says so."""
        return {entry["stage"]: entry[name] for entry in self.about["stages"] if name in entry}

    def directory(self, step: str) -> Path:
        return self.run / self.of_steps("directory")[step]

    def counts(self, step: str) -> dict[str, Any]:
        return read_manifest(str(self.directory(step)))["counts"]

    def table(self, step: str, name: str | None = None) -> pa.Table:
        return read_table(str(self.directory(step)), name).to_arrow()

    def asked(self) -> list[str]:
        """A word for each request that a scripted model was sent, since the beginning."""
        log = Path(os.environ["ALIGNBEAM_TEST_LOG"])
        return log.read_text().split() if log.exists() else []

    def change_times(self) -> dict[str, int]:
        """When each file of a result was written, by its path in the run."""
        kinds = [path for path in self.run.iterdir() if path.is_dir() and path.name not in ("cache", "steps")]
        files = [file for kind in kinds for file in kind.rglob("*") if file.is_file() and file.suffix != ".lock"]
        return {str(file.relative_to(self.run)): file.stat().st_mtime_ns for file in files}

    def write_rows(self, name: str, *rows: dict[str, Any]) -> None:
        """Write a file of JSON lines beside the recipe."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def restored(runs: Runs, backup: Path) -> Iterator[Runs]:
    """Give a test a finished run to change; afterwards all is as it was before."""
    shutil.copytree(runs.folder, backup)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNBEAM_TEST_LOG", str(runs.folder / LOG))
        patch.setattr(page, "page", lambda *_: "<html>")  # is written all the same, as the file beside run.json
        yield Runs(runs.folder, copy.deepcopy(runs.recipe))
    shutil.rmtree(runs.folder)
    shutil.move(backup, runs.folder)


def finished(
    folder: Path, recipe: dict[str, Any], files: dict[str, list[dict[str, Any]]], trainer: "Trainer | None" = None
) -> Runs:
    """Run a recipe in a folder with these files of JSON lines."""
    runs = Runs(folder, recipe)
    for name, rows in files.items():
        runs.write_rows(name, *rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNBEAM_TEST_LOG", str(folder / LOG))
        patch.setattr(trainers, "run_trainer", trainer or Trainer())
        assert runs() == 0
    return runs


def questions(*texts: str) -> list[dict[str, str]]:
    return [{"question": text} for text in texts]


def write_model(folder: Path, weights: bytes = b"") -> None:
    """Write files of a model folder, which no engine could load."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)


@dataclass
class Trainer:
    """Stands for the trainers' programs: notes what each is told, and writes a folder whose weights are that.

    engines: which were open as each started. error: is raised in place of training.
    """

    told: list[dict[str, Any]] = field(default_factory=list)
    engines: list[list[str]] = field(default_factory=list)
    launched: list[str] = field(default_factory=list)
    error: BaseException | None = None

    def __call__(self, method: str, arguments: Sequence[str], data: str = "", launch: str = "") -> None:
        settings = yaml.safe_load(Path(arguments[1]).read_text())
        self.told.append({"method": method, **settings})
        self.launched.append(launch)
        self.engines.append([config.args.get("function", "") for config, _ in running._engines.values()])
        if self.error:
            raise self.error
        decisive = {name: value for name, value in settings.items() if name not in ("data", "base", "output")}
        output = Path(settings["output"])
        if not output.is_dir():  # as a trainer that is asked again
            write_model(output, json.dumps(decisive).encode())
            (output / "metrics.json").write_text('{"rows": {"train": 6, "validation": 2}}')
