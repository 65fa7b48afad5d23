"""Folders of trained models: in the run, or where that is a store under `--work`, with a copy in the run.

    <run>/<kind>/<digest>/                        on a local disk, where trainers write
    <work>/<kind>/<digest>/ -> <run>/<kind>/…     on a store: put there when it is whole, its manifest last

A model that is on the store and not under `--work` is fetched once, because engines and trainers read local folders.
"""

import os
import shutil
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from pipelines.runtime.stage import Stage
from pipelines.runtime.step import Place
from schemas.errors import UsageError
from transforms.tables import storage

BESIDE = (".training", ".yaml")  # what a trainer leaves beside a folder until it is whole; its settings


def is_store(path: str) -> bool:
    """Return whether a path lies on no local disk."""
    return not isinstance(storage.filesystem(path)[0], LocalFileSystem)


def check_local(place: Place) -> None:
    """Raise UsageError where trainers have no local folder to work in."""
    if is_store(place.output) and not place.work:
        raise UsageError(
            f"output = {place.output}: trainers write to a local disk; give them a folder to work in with --work DIR, "
            "or a local output"
        )
    if place.work and is_store(place.work):
        raise UsageError(f"work = {place.work}: is a store, and trainers write to a local disk; give a local folder")
    if place.work:
        storage.check_writable(place.work)


def trained_folder(stage: Stage, place: Place) -> str:
    """Return the local folder of a trained model, where its trainer writes; UsageError where there is none."""
    if not is_store(place.output):
        is_plain = "://" not in stage.directory and not stage.directory.startswith("~")
        return stage.directory if is_plain else storage.filesystem(stage.directory)[1]
    check_local(place)
    return storage.join(place.work, stage.kind, stage.digest)


def remove_trained(stage: Stage, place: Place) -> None:
    """Remove a trained model, its copy, and what its trainer has begun."""
    folder = trained_folder(stage, place)
    for path in (stage.directory, folder, *(f"{folder}{ending}" for ending in BESIDE)):
        storage.remove(path)


def put_on_store(folder: str, stage: Stage) -> None:
    """Copy a model's folder into its run on a store; whatever an attempt before left there goes first."""
    storage.remove(stage.directory)
    fs, target = storage.filesystem(stage.directory)
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    storage.for_each(lambda name: fs.put_file(os.path.join(folder, name), f"{target}/{name}"), names)


def fetch_trained(stage: Stage, place: Place) -> str:
    """Return the local folder of a model that is done, fetched from the run's store where it is not there yet."""
    folder = trained_folder(stage, place)
    if not is_store(place.output) or os.path.isdir(folder):
        return folder
    fs, source = storage.filesystem(stage.directory)
    half = f"{folder}.fetched"  # has its name when it is whole
    shutil.rmtree(half, ignore_errors=True)
    os.makedirs(half)
    names = [path.removeprefix(f"{source.rstrip('/')}/") for path in fs.find(source)]
    for name in names:
        os.makedirs(os.path.dirname(os.path.join(half, name)), exist_ok=True)
    storage.for_each(lambda name: fs.get_file(f"{source}/{name}", os.path.join(half, name)), names)
    os.rename(half, folder)
    return folder
