"""Running a pipeline: Beam's options and runners, and errors of its steps as ours."""

import contextlib
import io
import logging
import os
import re
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    _BeamArgumentParser,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner
from apache_beam.transforms.resources import resource_hints_from_options

from pipelines.runtime.accelerators import place_accelerator, take_accelerator
from pipelines.runtime.flink import cancelled_if_interrupted, check_flink, roomy_flink
from schemas.children import as_child_environment
from schemas.errors import StageError, UsageError
from transforms.engines.running import close_engines

MAX_THREADS = 8  # what joins their results is one
LOCAL_RUNNERS = ("", "DirectRunner", "BundleBasedDirectRunner", "FnApiRunner")


def beam_options(arguments: Sequence[str]) -> PipelineOptions:
    """Return Beam's options from what stands after `--`.

    Raises UsageError naming an option that Beam does not know (Beam itself only warns), or a hint that it refuses.
    """
    parser = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    for options in [PipelineOptions, *PipelineOptions.__subclasses__()]:
        options._add_argparse_args(parser)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):  # all of Beam's flags, and then what is wrong
            _, unknown = parser.parse_known_args(list(arguments))
    except SystemExit as error:
        reason = printed.getvalue().rpartition("error: ")[2].strip()
        raise UsageError(f"Beam refuses {' '.join(arguments)}: {reason}") from error
    if unknown:
        raise UsageError(f"Beam knows no option {unknown[0]} (what stands after -- goes to Beam)")
    options = PipelineOptions(list(arguments))
    try:
        resource_hints_from_options(options)
    except ValueError as error:
        raise UsageError(f"--resource_hints: {error}") from error
    check_runner(options.view_as(StandardOptions).runner or "")
    setup = options.view_as(SetupOptions)
    if setup.setup_file:  # Beam refuses `setup.py` without a directory before it
        setup.setup_file = os.path.abspath(setup.setup_file)
    return options


def check_runner(name: str) -> None:
    """Raise UsageError where Beam has no runner of this name, or lacks a package for it."""
    if name in LOCAL_RUNNERS:
        return
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"--runner={name}: {error}") from error


def checked_options(arguments: Sequence[str]) -> PipelineOptions:
    """Return `beam_options`; UsageError also where they ask for Flink and it lacks something."""
    options = beam_options(arguments)
    check_flink(options)
    return options


def run_pipeline(
    build: Callable[[beam.Pipeline], object], arguments: Sequence[str] = (), *, models: bool = True
) -> None:
    """Build and run one pipeline to its end, on the local runner unless `--runner` names another.

    The local runner is Beam's FnApiRunner by name: DirectRunner would first look for a Prism binary on the network.
    An accelerator asked for in `--resource_hints` goes to the steps with texts, in a pipeline that runs `models`.
    Raises the UsageError or StageError of the step that failed; KeyboardInterrupt where the user stopped it.
    """
    options = checked_options(arguments)
    name = options.view_as(StandardOptions).runner or ""
    runner = FnApiRunner() if name in LOCAL_RUNNERS else None
    direct = options.view_as(DirectOptions)
    if runner and direct.direct_running_mode == "multi_threading":
        # That sends all data through sockets, where a timer may cut an element of a long bundle in two (Beam 2.77);
        # with several workers, this is threads too, and does without.
        direct.direct_running_mode = "in_memory"
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL if runner else logging.WARNING)
    accelerator = take_accelerator(options)
    logging.getLogger().addFilter(_is_not_raised_too)
    try:
        with (
            roomy_flink(options),
            cancelled_if_interrupted(options),
            as_child_environment(),  # Beam may start workers and pip
            beam.Pipeline(runner=runner, options=options) as root,
        ):
            build(root)
            if models:
                place_accelerator(root, accelerator)
    except (StageError, UsageError) as error:
        raise type(error)(_without_step(str(error))) from error
    except RuntimeError as error:
        text = str(error)
        if "KeyboardInterrupt" in text:
            close_engines()
            raise KeyboardInterrupt from error
        refusal = re.search(r"schemas\.errors\.(StageError|UsageError): (.+)", text)
        if refusal:
            kind = UsageError if refusal.group(1) == "UsageError" else StageError
            raise kind(_without_step(refusal.group(2))) from error
        raise
    except KeyboardInterrupt:
        close_engines()
        raise


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    """Return False for the trace of a job's error.

    The portable runners log it before they raise it.
    """
    return record.module != "portable_runner" or record.levelno < logging.ERROR


def on_all_processors(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return arguments that give the local runner a thread for each processor.

    Arguments that say how many are left alone. For pipelines without a model, which has threads of its own, and a
    window of requests for each worker.
    """
    if any(argument.startswith("--direct_num_workers") for argument in arguments):
        return tuple(arguments)
    return (*arguments, f"--direct_num_workers={min(os.cpu_count() or 1, MAX_THREADS)}")


def _without_step(message: str) -> str:
    return re.sub(r" \[while running '[^']*'\]", "", message)
