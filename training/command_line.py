"""The command line of a trainer, made from its Config; a trainer ends with the process that started it."""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from schemas.command_line import DONE, FAILED, config_parser, exit_code, resolve_flags
from schemas.console import results
from schemas.settings import config_text

LIFELINE = "ALIGNBEAM_LIFELINE"  # names a pipe; only the parent holds the end that is written to
DATA = "ALIGNBEAM_TRAINER_DATA"  # stands for --data, which a command line would show to everybody


def end_with_parent() -> None:
    """End this process when the command that started it ends, if that set LIFELINE.

    The pipe has a name, because what starts the trainer, such as torchrun, hands no open file on. Where it is not
    there, on another machine or once the command has ended, nothing is waited for.
    """

    def wait(lifeline: int) -> None:
        os.read(lifeline, 1)
        os._exit(FAILED)

    if path := os.environ.get(LIFELINE):
        with suppress(OSError):
            lifeline = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else it waits for ever for a parent that is gone
            os.set_blocking(lifeline, True)
            threading.Thread(target=wait, args=(lifeline,), daemon=True).start()


def main(
    argv: Sequence[str] | None,
    config_class: type,
    train: Callable[[Any], object],
    *,
    program: str,
    description: str,
) -> int:
    """Parse, train, and return the exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    parser = config_parser(config_class, program=program, description=description)

    def command() -> int:
        of_parent = ["--data", os.environ.pop(DATA)] if DATA in os.environ else []
        parsed = parser.parse_args([*of_parent, *(sys.argv[1:] if argv is None else argv)])
        end_with_parent()
        resolved = resolve_flags(config_class, parsed)
        if parsed.print_config:
            results.print(config_text(resolved), soft_wrap=True)
        else:
            train(resolved.config)
        return DONE

    return exit_code(command, interrupted="checkpoints are kept; the same command goes on from the last one")
