"""Trainers as programs of their own: how each is started, and what it may be told."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from schemas.children import child_environment
from schemas.command_line import INTERRUPTED, WRONG_USE
from schemas.errors import StageError, UsageError
from schemas.settings import to_dict
from schemas.urls import redacted
from training import aligner as aligner_trainer
from training import inspector as inspector_trainer
from training.command_line import DATA, LIFELINE
from transforms.tables import storage

TRAINERS: Mapping[str, Any] = {"inspector": inspector_trainer.Config, "aligner": aligner_trainer.Config}


def train(method: str, config: Any, launch: str = "") -> None:
    """Run a trainer with a Config, which is written beside its output.

    No URL's secret is in that file. Raises what `run_trainer` does.
    """
    path = f"{config.output}.yaml"
    with storage.open_output(path) as file:
        file.write(yaml.safe_dump(redacted(to_dict(config))).encode())
    run_trainer(method, ["--config", path], config.data, launch)


def run_trainer(method: str, arguments: Sequence[str], data: str = "", launch: str = "") -> None:
    """Run a trainer as a program of its own.

    What it prints is shown as it comes. `data` goes by the environment, because a URL may hold a secret, and everybody
    on the machine sees a command line. launch: what starts it in place of Python, such as torchrun with its flags.
    Raises UsageError or StageError as its exit code says; KeyboardInterrupt where it was interrupted.
    """
    starter = launcher(launch) or [sys.executable]
    of_data = {DATA: data} if data else {}
    with held_lifeline() as lifeline:
        environment = child_environment() | of_data | {LIFELINE: lifeline}
        code = subprocess.run([*starter, "-m", f"training.{method}", *arguments], env=environment).returncode
    if code == WRONG_USE:
        raise UsageError(f"the {method}'s trainer refused its settings (see above)")
    if code in (INTERRUPTED, -2):
        raise KeyboardInterrupt
    if code:
        raise StageError(f"the {method}'s trainer ended with exit code {code} (see above); run the command again")


def launcher(launch: str) -> list[str]:
    """Return the program that starts trainers, and its arguments; none where Python itself does.

    It is looked for beside Python too, as in an environment that was not activated. UsageError where it is nowhere.
    """
    try:
        program, *arguments = shlex.split(launch) or [""]
    except ValueError as error:
        raise UsageError(f"launch = {launch!r}: cannot be split into words: {error}") from error
    if not program:
        return []
    path = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if path is None:
        raise UsageError(f"launch = {launch!r}: there is no program {program!r}; install it, or give its whole path")
    return [path, *arguments]


@contextmanager
def held_lifeline() -> Iterator[str]:
    """Make a pipe with a name that ends with the block, or with this process, however that ends.

    Who has opened it for reading sees its end then.
    """
    with tempfile.TemporaryDirectory(prefix="alignbeam-") as folder:
        path = os.path.join(folder, "lifeline")
        os.mkfifo(path, 0o600)
        held = os.open(path, os.O_RDWR)  # to write alone would wait for a reader
        try:
            yield path
        finally:
            os.close(held)
