"""The command line of a trainer, made from its Config: a flag for every setting, --config, --set, --print-config."""

import argparse
import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from schemas.config import Layer, parse_assignments, print_config, read_yaml, resolve
from schemas.errors import StageError, UsageError

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
LIFELINE = "ALIGNBEAM_LIFELINE"  # names the read end of a pipe whose other end only the parent holds


def setting(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of a Config that is also a flag; `help` is what `--help` says of it."""
    return dataclasses.field(default=default, metadata={"help": help})


def end_with_parent() -> None:
    """End this process once the one that started it is gone, if that one asked for it."""

    def wait(lifeline: int) -> None:
        os.read(lifeline, 1)
        os._exit(FAILED)

    if LIFELINE in os.environ:
        threading.Thread(target=wait, args=(int(os.environ[LIFELINE]),), daemon=True).start()


def main(
    argv: Sequence[str] | None,
    config_class: type,
    train: Callable[[Any], object],
    *,
    program: str,
    description: str,
) -> int:
    """Parse, train, and give the exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="settings as YAML; flags and --set win over them")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting by dotted name")
    parser.add_argument("--print-config", action="store_true", help="print every setting and its source, then stop")
    flags = {"--" + field.name.replace("_", "-"): field for field in dataclasses.fields(config_class)}
    for flag, field in flags.items():
        shown = "" if field.default in (dataclasses.MISSING, None) else f" (default: {field.default})"
        parser.add_argument(flag, help=field.metadata["help"] + shown, metavar="VALUE")
    given = parser.parse_args(argv)
    end_with_parent()
    try:
        layers = [Layer(given.config, read_yaml(given.config) or {})] if given.config else []
        layers.append(Layer("--set", parse_assignments(given.set)))
        for flag, field in flags.items():
            if (value := getattr(given, field.name)) is not None:
                layers.append(Layer(flag, {field.name: value}))
        resolved = resolve(config_class, layers)
        if given.print_config:
            print(print_config(resolved))
        else:
            train(resolved.config)
        return DONE
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    except StageError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted: checkpoints are kept; the same command goes on from the last one", file=sys.stderr)
        return INTERRUPTED
