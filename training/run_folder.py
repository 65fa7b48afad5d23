"""A training run on disk: checkpoints while it trains, and a model that appears under its name only when it is whole.

    <output>.training/    run.json, checkpoints/                             while it trains
    <output>/             weights, tokenizer, README.md, metrics.json, run.json   when it is done
    <output>.logs/        what TensorBoard shows, if the settings ask for it; stays

The same command again goes on from the last whole checkpoint, or says that the model is there.
"""

import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from schemas.errors import StageError, UsageError
from schemas.fields import decisive
from schemas.settings import to_dict
from schemas.versions import installed_versions
from training.shards import data_digest, manifest_digest
from transforms.engines.encoder import model_config, model_digest
from transforms.tables import storage

VERSIONED = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers")
CHECKPOINT = re.compile("checkpoint-([0-9]+)")
_locks: dict[Path, BinaryIO] = {}  # by work folder


def is_main_process() -> bool:
    """Return whether this process prints and writes.

    It is the first under torchrun or accelerate, or the only one.
    """
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide what a trainer computes."""
    return installed_versions(VERSIONED)


def base_name(base: str) -> str:
    """Return the base's name for a model card: hub id, or folder name without the path."""
    return Path(base).resolve().name if Path(base).is_dir() else base


def base_digest(base: str) -> str:
    """Return a digest of a base's weights and tokenizer, or of its hub id.

    Raises UsageError where the base is a folder that holds no model.
    """
    if os.path.exists(base) or base.startswith((".", "/", "~")):
        model_config(base)
    return model_digest(base)


def output_folder(output: str) -> Path:
    """Return where a trained model goes: where `output` leads if it is a link.

    Raises UsageError where a folder cannot be renamed to it.
    """
    path = Path(output)
    try:
        path = path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{output}: leads nowhere: {error}") from error
    if path.is_symlink():
        raise UsageError(f"{output}: is a link that leads to itself; remove it")
    if os.path.ismount(path) and not any(path.iterdir()):
        raise UsageError(f"{output}: is a mount point, and no model can take its name; choose a folder in it")
    return path


def check_plain(work: Path) -> None:
    """Raise UsageError where a work folder holds what a trainer could write through to another file.

    All in it must be folders and plain files of one name. What is absent passes.
    """
    folders = [work] if os.path.lexists(work) else []
    while folders:
        folder = folders.pop()
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise UsageError(f"{folder}: is no folder, or a link to one; remove it")
        for path in sorted(folder.iterdir()):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                folders.append(path)
            elif not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise UsageError(f"{path}: is no plain file of one name, and the training would write to it; remove it")


def decisive_settings(config: Any) -> dict[str, Any]:
    """Return the settings that decide a model; where data and base lie does not, but what lies there."""
    references = {item.name for item in fields(config) if "edge" in item.metadata}
    values = to_dict(config)
    return {name: values[name] for name in decisive(config, lambda path: None) if name not in references}


@dataclass(frozen=True)
class TrainingRun:
    """One training run. `identity` holds all that decides the model: settings, and digests of data and base."""

    output: Path
    identity: dict = field(hash=False)

    @classmethod
    def open(cls, method: str, config: Any) -> "TrainingRun":
        """Return the run of a trainer's Config, checked before any work.

        Raises UsageError where the base is no model, or the output cannot be written or belongs to another run.
        """
        run = cls(
            output_folder(config.output),
            {
                "method": method,
                "settings": decisive_settings(config),
                "base": base_digest(config.base),
                "data": {
                    "digest": data_digest(config.data),
                    "manifest_digest": manifest_digest(config.data),
                },
                "processes": processes(),
            },
        )
        if run.output.exists() and (not run.output.is_dir() or any(run.output.iterdir())):
            run._check_same(run.output)
        elif os.path.lexists(run.work):
            check_plain(run.work)
            run._check_same(run.work)
        else:
            storage.check_writable(str(run.output.absolute().parent))
        return run

    @property
    def work(self) -> Path:
        return self.output.with_name(f"{self.output.name}.training")

    @property
    def logs(self) -> Path:
        return self.output.with_name(f"{self.output.name}.logs")

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    def _check_same(self, folder: Path) -> None:
        if not (folder / "run.json").is_file():
            raise UsageError(f"{folder}: is there and is no training run; choose another output")
        before = storage.read_json(str(folder / "run.json"))
        if changes := _changes(before, self.identity):
            raise UsageError(
                f"{folder}: was trained with other settings ({'; '.join(changes)}); choose another output or remove it"
            )

    def metrics(self) -> dict | None:
        """Return the metrics of the finished run; None where it is not finished."""
        path = self.output / "metrics.json"
        return storage.read_json(str(path)) if path.is_file() else None

    def begin(self) -> None:
        """Claim the work folder for this run (main process); UsageError where another process trains in it."""
        if not is_main_process():
            return
        check_plain(self.work)
        storage.write_json(str(self.work / "run.json"), self.identity)
        if held := _locks.pop(self.work, None):
            held.close()
        lock = storage.open_lock(str(self.work / "lock"))  # held until the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{self.work}: another process is training there; wait for it or end it") from error
        _locks[self.work] = lock

    def last_checkpoint(self) -> str | None:
        """Return the newest checkpoint that is whole: the Trainer writes a checkpoint's state last."""
        steps = {
            int(match[1]): folder
            for folder in self.checkpoints.glob("checkpoint-*")
            if (match := CHECKPOINT.fullmatch(folder.name))
        }
        for _, folder in sorted(steps.items(), reverse=True):
            try:
                json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            return str(folder)
        return None

    def publish(self, parts: Sequence[Any], metrics: dict, card: str) -> None:
        """Write the model's parts (each with `save_pretrained`), card and metrics; then remove the checkpoints.

        The folder is renamed to `output` when it is whole. After a crash before that, the same command goes on from
        the last checkpoint and writes it anew.
        """
        from safetensors import SafetensorError

        model = self.work / "model"
        shutil.rmtree(model, ignore_errors=True)
        try:
            model.mkdir(parents=True)
            for part in parts:
                part.save_pretrained(model)
            (model / "README.md").write_text(card, encoding="utf-8")
            storage.write_json(str(model / "run.json"), self.identity)
            storage.write_json(str(model / "metrics.json"), metrics)
            os.rename(model, self.output)
        except (OSError, SafetensorError) as error:
            raise StageError(f"{self.output}: the trained model cannot be written: {error}") from error
        shutil.rmtree(self.work)


def _changes(before: dict, now: dict, prefix: str = "") -> list[str]:
    """Return `name: old -> new` of every value that differs."""
    changes = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _changes(old, new, f"{prefix}{name}.")
        elif old != new:
            changes.append(f"{prefix}{name}: {old} -> {new}".removeprefix("settings."))
    return changes
