"""The command line of a stage, made from its Config: flags, --config, --set, --print-config, and Beam's after `--`."""

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipelines.stages import Stage, beam_options
from pipelines.watch import console
from schemas.config import Layer, parse_assignments, print_config, read_yaml, resolve
from schemas.errors import StageError, UsageError

DONE, FAILED, WRONG_USE, DONE_WITH_REJECTS, INTERRUPTED = 0, 1, 2, 3, 130


def setting(help: str, default: Any = dataclasses.MISSING, *, positional: bool = False, short: str = "") -> Any:
    """A field of a Config that is also a flag; `help` is what `--help` says of it."""
    return dataclasses.field(default=default, metadata={"help": help, "positional": positional, "short": short})


def main(
    argv: Sequence[str] | None,
    config_class: type,
    run: Callable[[Any, Sequence[str]], Stage | Sequence[Stage] | int],
    *,
    program: str,
    description: str,
    file_flag: str = "--config",
) -> int:
    """Parse a stage's command line, run the stage, and give the exit code. `file_flag` names the file of settings.

    `run` gives the stages that it did, each to be reported, or an exit code.
    0 done, 1 failed, 2 wrong use, 3 done with rejects, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    own, beam_arguments = split_beam_arguments(arguments)
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Flags of Beam stand after --, for example: -- --runner=FlinkRunner --flink_master=localhost:8081",
    )
    names = add_flags(parser, config_class)
    parser.add_argument(file_flag, metavar="FILE", help="settings as YAML; flags and --set win over them")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting by dotted name")
    parser.add_argument("--print-config", action="store_true", help="print every setting and its source, then stop")

    def command() -> int:
        parsed = parser.parse_args(own)
        file = getattr(parsed, file_flag.removeprefix("--"))
        layers = [Layer(file, read_yaml(file) or {})] if file else []
        layers.append(Layer("--set", parse_assignments(parsed.set)))
        for name, flag in names.items():
            value = getattr(parsed, name)
            if value is not None and value != []:
                layers.append(Layer(flag, {name: value}))
        resolved = resolve(config_class, layers)
        if parsed.print_config:
            print(print_config(resolved))
            return DONE
        beam_options(beam_arguments)
        result = run(resolved.config, beam_arguments)
        if isinstance(result, int):
            return result
        return max(report_stage(stage) for stage in ([result] if isinstance(result, Stage) else result))

    return exit_code(command)


def report_stage(stage: Stage) -> int:
    """Say what a stage made, and why rows are missing; gives the exit code."""
    counts = stage.manifest["counts"]
    console.print(f"[bold]{stage.name}[/bold]")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("in", f"{counts['in']:,}")
    table.add_row("kept", f"{counts['kept']:,}")
    for mark, reasons in (("dropped", counts["drops"]), ("rejected", counts["rejects"])):
        for reason, rows in reasons.items():
            table.add_row(mark, f"{rows:,}  {reason}")
    console.print(table)
    console.print(stage.directory, soft_wrap=True)
    return DONE_WITH_REJECTS if counts["rejects"] else DONE


def exit_code(command: Callable[[], int]) -> int:
    """Run a command; what went wrong becomes one plain message and an exit code."""
    try:
        return command()
    except UsageError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        return WRONG_USE
    except StageError as error:
        console.print(f"[red]failed:[/red] {escape(str(error))}", soft_wrap=True)
        return FAILED
    except KeyboardInterrupt:
        console.print("[yellow]interrupted:[/yellow] what was done is kept; the same command goes on from there")
        return INTERRUPTED


def split_beam_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments and those after `--`."""
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def add_flags(parser: argparse.ArgumentParser, config_class: type) -> dict[str, str]:
    """A flag for every field made by `setting`; gives field name -> flag."""
    hints = typing.get_type_hints(config_class)
    flags = {}
    for item in dataclasses.fields(config_class):
        if "help" not in item.metadata:
            continue
        flag = item.name if item.metadata["positional"] else "--" + item.name.replace("_", "-")
        flags[item.name] = flag
        parser.add_argument(
            *([item.metadata["short"]] if item.metadata["short"] else []),
            flag,
            **_argument(item, hints[item.name]),
        )
    return flags


def _argument(item: dataclasses.Field, annotation: Any) -> dict[str, Any]:
    default = item.default
    shown = "" if default in (dataclasses.MISSING, None, (), "", False) else f" (default: {default})"
    options: dict[str, Any] = {"help": item.metadata["help"] + shown}
    if item.metadata["positional"]:
        return options | {"nargs": "?"}
    options["default"] = None
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(arm for arm in typing.get_args(annotation) if arm is not type(None))
    if annotation is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(annotation) is tuple:
        return options | {"action": "append", "metavar": item.name.upper()}
    return options | {"metavar": "N" if annotation is int else "X" if annotation is float else item.name.upper()}
