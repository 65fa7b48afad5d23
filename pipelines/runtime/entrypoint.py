"""The command line of a stage or a command: that of its Config, and Beam's flags after `--`."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from pipelines.runtime.beam import checked_options
from pipelines.runtime.stage import Stage
from schemas.command_line import DONE, DONE_WITH_REJECTS, config_parser, exit_code, resolve_flags
from schemas.console import messages, results
from schemas.settings import config_text


def main(
    argv: Sequence[str] | None,
    config_class: type,
    run: Callable[[Any, Sequence[str]], Stage],
    *,
    program: str,
    description: str,
) -> int:
    """Parse a stage's command line, run the stage, say what it made; return the exit code.

    0 done, 1 failed, 2 wrong use, 3 done with rejects, 130 interrupted.
    """

    def command(config: Any, beam_arguments: Sequence[str]) -> int:
        return report_stages(run(config, beam_arguments))

    return command_main(argv, config_class, command, program=program, description=description)


def command_main(
    argv: Sequence[str] | None,
    config_class: type,
    run: Callable[[Any, Sequence[str]], int],
    *,
    program: str,
    description: str,
    file_flag: str = "--config",
) -> int:
    """Parse a command line and run the command, which returns the exit code.

    `file_flag` names the file of settings.
    """
    own, beam_arguments = split_beam_arguments(list(sys.argv[1:] if argv is None else argv))
    epilog = "Flags of Beam stand after --, for example: -- --runner=FlinkRunner --flink_master=localhost:8081"
    parser = config_parser(config_class, program=program, description=description, file_flag=file_flag, epilog=epilog)

    def command() -> int:
        parsed = parser.parse_args(own)
        resolved = resolve_flags(config_class, parsed, file_flag)
        if parsed.print_config:
            results.print(config_text(resolved), soft_wrap=True)
            return DONE
        checked_options(beam_arguments)
        return run(resolved.config, beam_arguments)

    return exit_code(command)


def report_stages(*stages: Stage) -> int:
    """Say what stages made, and why rows are missing; return the exit code."""
    return max(map(_report_stage, stages), default=DONE)


def _report_stage(stage: Stage) -> int:
    counts = stage.read_manifest()["counts"]
    messages.print(stage.name, style="bold")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("in", f"{counts['in']:,}")
    table.add_row("kept", f"{counts['kept']:,}")
    for mark, reasons in (("dropped", counts["drops"]), ("rejected", counts["rejects"])):
        for reason, rows in reasons.items():
            table.add_row(mark, f"{rows:,}  {reason}")
    messages.print(table)
    messages.print(stage.directory, soft_wrap=True)
    return DONE_WITH_REJECTS if counts["rejects"] else DONE


def split_beam_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return our own arguments and those after `--`."""
    if "--" not in arguments:
        return arguments, []
    end = arguments.index("--")
    return arguments[:end], arguments[end + 1 :]
