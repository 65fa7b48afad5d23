"""The command line of a stage or a command: that of its Config, and Beam's flags after `--`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from rich.table import Table

from pipelines.runtime.at_work import at_work
from pipelines.runtime.beam import checked_options
from pipelines.runtime.edges import check_edges
from pipelines.runtime.runs import Record, Run
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import Place, PlannedStep, StageKind
from pipelines.runtime.steps import alone, check_outside, do_steps
from schemas.command_line import DONE, DONE_WITH_REJECTS, config_parser, exit_code, resolve_flags
from schemas.console import messages, results
from schemas.fields import setting
from schemas.settings import config_text
from transforms.tables import storage

FLAGS_OF_BEAM = "Flags of Beam stand after --, for example: -- --runner=FlinkRunner --flink_master=localhost:8081"


@dataclass(frozen=True, kw_only=True)
class StepFlags:
    """What a command that does one step is told beside the step's own settings."""

    output: str = setting("run directory", short="-o")
    cache: str = setting("directory of the response cache (default: OUTPUT/cache)", "")
    engine: dict[str, Any] = field(default_factory=dict)  # settings of EngineConfig for the models that generate
    retry_failed: bool = setting("ask again for the rows that failed", False)


@dataclass(frozen=True, kw_only=True)
class TrainingFlags(StepFlags):
    """What is told besides where the step trains."""

    launch: str = setting("how a trainer is started, such as 'torchrun --nproc-per-node 8'", "")
    work: str = setting("local folder where a trainer works, if the output is a store", "")


def main(kind: StageKind, description: str | None, argv: Sequence[str] | None = None) -> int:
    """Parse the command line of a stage kind, do it alone, say what it made; return the exit code.

    What the kind takes and uses are paths, folders and hub ids here. 0 done, 1 failed, 2 wrong use, 3 done with
    rejects, 130 interrupted.
    """
    bases = (TrainingFlags if kind.trains else StepFlags, kind.config)  # a trainer's own output is in the run
    command_config = make_dataclass(f"{kind.name}_command", [], bases=bases, frozen=True, kw_only=True)

    def command(config: Any, beam_arguments: Sequence[str]) -> int:
        own = kind.config(**{item.name: getattr(config, item.name) for item in fields(kind.config)})
        planned = alone(PlannedStep(kind.name, kind, own, beam_arguments=tuple(beam_arguments)), config.engine)
        told = {item.name: getattr(config, item.name) for item in fields(config) if item.name in ("work", "launch")}
        place = Place(config.output, config.cache, config.retry_failed, **told)
        return do_and_report([planned], place)

    program = f"alignbeam {kind.name}"
    return command_main(argv, command_config, command, program=program, description=description or kind.about)


def do_and_report(steps: Sequence[PlannedStep], place: Place) -> int:
    """Check the steps of a command, do them, say what they made; return the exit code."""
    check_outside(steps, place)
    check_edges(steps, place)
    storage.check_writable(place.output)
    with at_work(place.output):
        stages = do_steps(steps, Record(place.output), place)
    return report_stages(*stages.values())


def command_main(
    argv: Sequence[str] | None,
    config_class: type,
    run: Callable[[Any, Sequence[str]], int],
    *,
    program: str,
    description: str,
    file_flag: str = "--config",
    runs_pipelines: bool = True,
) -> int:
    """Parse a command line and run the command, which returns the exit code.

    `file_flag` names the file of settings. runs_pipelines: whether the help speaks of Beam's flags.
    """
    own, beam_arguments = split_beam_arguments(list(sys.argv[1:] if argv is None else argv))
    epilog = FLAGS_OF_BEAM if runs_pipelines else ""
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


def print_summary(run: Run) -> None:
    """Print how the steps of a run stand, a line each."""
    grid = Table(box=None, pad_edge=False)
    for heading in ("step", "status", "in", "kept", "seconds"):
        grid.add_column(heading, justify="left" if heading in ("step", "status") else "right")
    for stage in run.stages:
        counts = (stage.manifest or {"counts": {"in": 0, "kept": 0}})["counts"]
        rows = f"{counts['in']:,}", f"{counts['kept']:,}"
        grid.add_row(stage.name, stage.status, *rows, f"{stage.seconds or 0:,.1f}")
    messages.print(grid)


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
