"""A command line made from a Config: flags, --set, --print-config; the exit codes of stages and trainers."""

import argparse
import dataclasses
import errno
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from rich.text import Text

from schemas.console import messages, results, take_over
from schemas.errors import StageError, UsageError
from schemas.settings import Layer, Resolved, parse_assignments, read_yaml, resolve

DONE, FAILED, WRONG_USE, DONE_WITH_REJECTS, INTERRUPTED = 0, 1, 2, 3, 130
OF_THE_SYSTEM = (  # what disks and paths refuse: no mistake of ours
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
)


def check_limit(limit: int | None) -> None:
    """Raise ValueError for a limit below one row."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit: must be at least 1, not {limit}")


class Parser(argparse.ArgumentParser):
    """A parser that takes whole flags only, keeps the lines of its description, and prints through the console."""

    def __init__(self, program: str, description: str | None, epilog: str = "") -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(program, description=description, epilog=epilog, formatter_class=layout, allow_abbrev=False)
        self.color = False  # from Python 3.14 on argparse would put escapes of its own into the text

    def _print_message(self, message: str, file: Any = None) -> None:
        (results if file is sys.stdout else messages).print(message, end="", soft_wrap=True)


def config_parser(
    config_class: type, *, program: str, description: str, file_flag: str | None = "--config", epilog: str = ""
) -> Parser:
    """Return a parser with a flag for every field of schemas.fields.

    `file_flag` names the file of settings; None: there is none, and --set is for something else.
    """
    parser = Parser(program, description, epilog)
    hints = typing.get_type_hints(config_class)
    for item in _flagged(config_class):
        names = [name for name in (item.metadata.get("short"), _flag(item), item.metadata.get("also")) if name]
        parser.add_argument(*names, **_argument(item, hints[item.name]))
    about = "any setting by dotted name"
    if unflagged := [item.name for item in dataclasses.fields(config_class) if "help" not in item.metadata]:
        about += f"; these have no flag: {', '.join(unflagged)}"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=about)
    if file_flag is None:
        return parser
    parser.add_argument(file_flag, metavar="FILE", help="settings as YAML; flags and --set win over them")
    parser.add_argument("--print-config", action="store_true", help="print every setting and its source, then stop")
    return parser


def resolve_flags(config_class: type, parsed: argparse.Namespace, file_flag: str = "--config") -> Resolved:
    """Return the config that a parsed command line asks for: defaults < file < --set < flags.

    Raises UsageError.
    """
    file = getattr(parsed, file_flag.removeprefix("--"))
    layers = [Layer(file, read_yaml(file) or {})] if file else []
    layers.append(Layer("--set", parse_assignments(parsed.set), typed=True))
    for item in _flagged(config_class):
        value = getattr(parsed, item.name)
        if value is not None and value != []:
            layers.append(Layer(_flag(item), {item.name: value}, typed=True))
    return resolve(config_class, layers)


def flag_values(config_class: type, parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that flags of a command line give."""
    values = {item.name: getattr(parsed, item.name) for item in _flagged(config_class)}
    return {name: value for name, value in values.items() if value is not None and value != []}


def exit_code(
    command: Callable[[], int], *, interrupted: str = "what was done is kept; the same command goes on from there"
) -> int:
    """Run a command; what went wrong becomes one plain message and an exit code."""
    take_over()
    try:
        return command()
    except UsageError as error:
        messages.print(Text("error:", "red"), str(error), soft_wrap=True)
        return WRONG_USE
    except StageError as error:
        messages.print(Text("failed:", "red"), str(error), soft_wrap=True)
        return FAILED
    except OSError as error:
        if error.errno not in OF_THE_SYSTEM or not error.filename:
            raise
        said = "permission denied" if isinstance(error, PermissionError) else error.strerror
        messages.print(Text("error:", "red"), f"{error.filename}: {said}", soft_wrap=True)
        return WRONG_USE
    except KeyboardInterrupt:
        messages.print(Text("interrupted:", "yellow"), interrupted, soft_wrap=True)
        return INTERRUPTED


def _flagged(config_class: type) -> list[dataclasses.Field]:
    return [item for item in dataclasses.fields(config_class) if "help" in item.metadata]


def _flag(item: dataclasses.Field) -> str:
    if item.metadata.get("positional"):
        return item.name
    return item.metadata.get("flag") or "--" + item.name.replace("_", "-")


def _argument(item: dataclasses.Field, annotation: Any) -> dict[str, Any]:
    default = item.default
    shown = "" if default in (dataclasses.MISSING, None, (), "", False) else f" (default: {default})"
    options: dict[str, Any] = {"help": item.metadata["help"] + shown}
    if item.metadata.get("positional"):
        return options | {"nargs": "?"}
    options |= {"default": None, "dest": item.name}
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(arm for arm in typing.get_args(annotation) if arm is not type(None))
    if annotation is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    metavar = item.name.strip("_").upper()
    if typing.get_origin(annotation) is tuple:
        return options | {"action": "append", "metavar": metavar}
    return options | {"metavar": "N" if annotation is int else "X" if annotation is float else metavar}
