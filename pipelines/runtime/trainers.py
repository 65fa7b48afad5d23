"""Trainers as programs of their own, and what each may be told."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from schemas.children import child_environment
from schemas.command_line import INTERRUPTED, WRONG_USE
from schemas.errors import StageError, UsageError
from training import aligner as aligner_trainer
from training import inspector as inspector_trainer
from training.command_line import DATA, LIFELINE

TRAINERS: dict[str, Any] = {"inspector": inspector_trainer.Config, "aligner": aligner_trainer.Config}
ADAPTER = {"adapter": True, "lora_rank": 16}  # how a squad's aligner is trained unless its settings say otherwise


def run_trainer(method: str, arguments: Sequence[str]) -> None:
    """Run a trainer as a program of its own.

    What it prints is shown as it comes. `--data` goes by the environment, because a URL may hold a secret, and
    everybody on the machine sees a command line. Raises UsageError or StageError as its exit code says;
    KeyboardInterrupt where it was interrupted.
    """
    arguments, own = list(arguments), {}
    if "--data" in arguments:
        at = arguments.index("--data")
        _, own[DATA] = arguments[at : at + 2]
        del arguments[at : at + 2]
    command = [sys.executable, "-m", f"training.{method}", *arguments]
    lifeline, held = os.pipe()  # the trainer ends when nobody holds the other end any more
    try:
        environment = child_environment() | own | {LIFELINE: str(lifeline)}
        code = subprocess.run(command, env=environment, pass_fds=[lifeline]).returncode
    finally:
        os.close(lifeline)
        os.close(held)
    if code == WRONG_USE:
        raise UsageError(f"the {method}'s trainer refused its settings (see above)")
    if code in (INTERRUPTED, -2):
        raise KeyboardInterrupt
    if code:
        raise StageError(f"the {method}'s trainer ended with exit code {code} (see above); run the command again")
